"""Groups of images by their place in the data, from which intervals are made."""

from __future__ import annotations

import torch
from torch import Tensor

from gaekit.seeds import random_rows, seed_for

GROUPS = 16
"""Into how many groups images are dealt. A power of two, for `half_splits`."""


def groups_of(first: int, last: int) -> Tensor:
    """The group, of `GROUPS`, of each of the images [first, last) of a series, int64.

    Of every `GROUPS` consecutive images each goes to another group, in an order drawn for them: groups have the same
    size, and classes that come evenly, in whatever order, come evenly in each group.
    """
    begin = first // GROUPS
    random = random_rows(
        Tensor.uniform_, seed_for("interval"), begin, -(-last // GROUPS), (GROUPS,), torch.device("cpu")
    )
    return random.argsort(1).flatten()[first - begin * GROUPS : last - begin * GROUPS]


def half_splits() -> Tensor:
    """(GROUPS - 1, GROUPS), bool: as many ways to part the groups in two halves, orthogonal to each other (the rows of
    Hadamard's matrix but the constant one), which are balanced half-samples (McCarthy 1969)."""
    index = range(GROUPS)
    return torch.tensor([[bin(row & group).count("1") % 2 == 0 for group in index] for row in index[1:]])
