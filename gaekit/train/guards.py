"""What ends a training that has gone wrong before it wastes more time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gaekit.errors import RunFailed
from gaekit.parallel import World
from gaekit.values import Losses

INTERVALS_ALLOWED = 3
"""So many logged intervals in a row may lie beyond the limit."""


class Terms:
    """The sums of a step's terms over its micro-batches: one that was not finite in any of them leaves a sum that is
    not."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Losses) -> None:
        """Take in those of a micro-batch."""
        for term, loss in losses.items():
            value = loss.weighted.detach().float()
            self.sums[term] = self.sums[term] + value if term in self.sums else value


def guilty_terms(terms: Terms, world: World) -> str:
    """Which terms are not finite on any rank, as the beginning of a sentence."""
    mine = [term for term, total in terms.sums.items() if not bool(torch.isfinite(total))]
    guilty = sorted({term for found in world.all_gather(mine) for term in found})
    return f"loss term {', '.join(guilty)} is" if guilty else "every loss term is finite, the gradient is"


def mean_of_scalars(scalars: Mapping[str, float], world: World) -> dict[str, float]:
    """The means over ranks, which all know the same names."""
    names = sorted(scalars)
    values = world.mean(torch.tensor([scalars[name] for name in names], dtype=torch.float64))
    return dict(zip(names, values.tolist(), strict=True))


class Divergence:
    """Watches the sum of |weighted terms|, an interval's mean at a time: beyond `limit` times what the training began
    with, three intervals in a row, it has diverged. `limit` None watches nothing.

    `state` are JSON values: what it began with and how long it has been beyond.
    """

    def __init__(self, limit: float | None):
        self.limit = limit
        self.state: dict[str, Any] = {}

    def look(self, scalars: Mapping[str, float], where: str, kept: Callable[[], str]) -> None:
        """Take in an interval's means. Raises RunFailed, naming the largest term and what `kept` says is saved."""
        terms = {name.removeprefix("weighted/"): abs(v) for name, v in scalars.items() if name.startswith("weighted/")}
        total = sum(terms.values())
        if self.limit is None or not math.isfinite(total):  # what is not finite has a guard of its own
            return
        if not total and "first" not in self.state:  # nothing can be told as a multiple of nothing
            return
        first = self.state.setdefault("first", total)
        beyond = self.state.get("beyond", 0) + 1 if total > self.limit * first else 0
        self.state["beyond"] = beyond
        if beyond >= INTERVALS_ALLOWED:
            largest = max(terms, key=terms.__getitem__)
            raise RunFailed(
                f"{where}: the loss diverges: {total:.4g}, {total / first:.3g} times what it began with, mostly by "
                f"{largest}; {kept()}; lower the learning rate, or raise runtime.diverging"
            )
