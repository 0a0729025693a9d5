"""Weights that any machine draws alike, by whole numbers alone, so that a fixture need not hold them.

A fixture that says `drawn`, the shape of each tensor by its name, has these for its state. The library that made its
numbers had them too.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def drawn(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A state in float32: matrices and kernels that keep the scale of their input, norms around 1, the rest small."""
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def uniform(name: str, count: int) -> Tensor:
    """`count` numbers in [-1, 1), multiples of 2^-23, by splitmix64 from the name's checksum."""
    with np.errstate(over="ignore"):
        word = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        word += np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    whole = (word >> np.uint64(40)).astype(np.int64) - (1 << 23)
    return torch.from_numpy(whole.astype(np.float32) / np.float32(1 << 23))


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    numbers = uniform(name, math.prod(shape)).reshape(shape)
    if name.endswith(("num_batches_tracked", "position_ids")):
        return torch.arange(math.prod(shape)).reshape(shape) + 7 * (not shape)
    if name.endswith(("running_var", "latents_std", "encoder_std")):
        return 1.3 + numbers
    if len(shape) > 1:  # fan-in variance 1: a uniform number has a third of it
        return numbers * math.sqrt(3 / math.prod(shape[1:]))
    return 1 + 0.3 * numbers if name.endswith("weight") else 0.3 * numbers
