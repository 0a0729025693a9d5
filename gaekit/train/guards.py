"""What ends a training that has gone wrong before it wastes more time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaekit.errors import RunFailed
from gaekit.parallel import World

BAD_STEPS_ALLOWED = 3
DEAD_STEPS_ALLOWED = 100
INTERVALS_ALLOWED = 3
"""So many logged intervals in a row may lie beyond the limit."""


class Terms:
    """The sums of a step's weighted terms over its micro-batches: one that was not finite in any of them leaves a sum
    that is not. They stay on the device."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, names: tuple[str, ...], weighted: Tensor) -> None:
        """Take in those of a micro-batch, one number a name."""
        self.sums[names] = self.sums[names] + weighted if names in self.sums else weighted

    def bad(self, world: World) -> Tensor:
        """1 where any of them is not finite on any rank, 0 elsewhere: a float32 scalar on their device, for which the
        host does not wait. Every rank must call it."""
        bad = torch.stack([torch.isfinite(total).all().logical_not() for total in self.sums.values()]).any().float()
        return world.sum(bad).clamp(max=1.0)

    @property
    def not_finite(self) -> list[str]:
        """The names of those that are not finite."""
        finite = [(names, torch.isfinite(total).tolist()) for names, total in self.sums.items()]
        return [name for names, found in finite for name, good in zip(names, found, strict=True) if not good]


@dataclass(frozen=True)
class Outcome:
    """What became of a step, on the device: `skipped`, a float32 scalar, is 1 where it changed nothing; `norm` is that
    of the gradients before clipping, where it was taken."""

    skipped: Tensor
    norm: Tensor | None


def guilty_terms(terms: Terms, world: World) -> str:
    """Which terms are not finite on any rank, as the beginning of a sentence."""
    guilty = sorted({term for found in world.all_gather(terms.not_finite) for term in found})
    return f"loss term {', '.join(guilty)} is" if guilty else "every loss term is finite, the gradient is"


@dataclass
class StepGuard:
    """Judges the steps of a learner by what it made of them, all those since its last look at once: until then that
    stays on the device, where a bad step has changed nothing.

    `bad` and `dead` count the steps in a row, up to the last looked at, that were skipped, or had a gradient of exactly
    0. A step whose norm was not taken counts as dead between two that were.
    """

    stage: str
    name: str
    world: World
    say: Callable[[str], None]
    bad: int = 0
    dead: int = 0
    _unknown: int = 0
    _unseen: list[tuple[int, Outcome, Terms]] = field(default_factory=list)

    def add(self, index: int, outcome: Outcome, terms: Terms) -> None:
        """Note step `index` (from 0), what became of it and its terms."""
        self._unseen.append((index, outcome, terms))

    def look(self, kept: Callable[[], str]) -> int:
        """Judge what has been noted; -> how many steps were skipped. Every rank must call it at the same steps.

        Raises RunFailed after some bad steps in a row, naming the term, or many dead ones, and says what `kept` does.
        """
        steps, self._unseen = self._unseen, []
        if not steps:
            return 0
        unknown = torch.full_like(steps[0][1].skipped, -1.0)
        found = [torch.stack([o.skipped, unknown if o.norm is None else o.norm.float()]) for _, o, _ in steps]
        numbers = torch.stack(found).tolist()
        for (index, _, terms), (skipped, norm) in zip(steps, numbers, strict=True):
            self._judge(index, bool(skipped), norm, terms, kept)
        return sum(bool(skipped) for skipped, _ in numbers)

    def _judge(self, index: int, skipped: bool, norm: float, terms: Terms, kept: Callable[[], str]) -> None:
        self.bad = self.bad + 1 if skipped else 0
        self._count_dead(norm)
        where = f"{self.stage}: step {index + 1}"
        if skipped:
            what = guilty_terms(terms, self.world)
            self.say(f"{where}: {what} not finite for {self.name}; the step is skipped")
            if self.bad >= BAD_STEPS_ALLOWED:
                raise RunFailed(
                    f"{where}: {what} not finite for {self.name}, {self.bad} steps in a row; {kept()}; "
                    f"lower {self.stage}.train.lr or its clip"
                )
        if self.dead >= DEAD_STEPS_ALLOWED:
            raise RunFailed(
                f"{where}: the gradient of {self.name} has been exactly zero for {self.dead} steps; "
                f"nothing is learnt any more; {kept()}"
            )

    def _count_dead(self, norm: float) -> None:
        """Take in the norm of the next step, -1 where it is not known."""
        if norm < 0:
            self._unknown += 1
            return
        between = self._unknown if self.dead else 0
        self.dead, self._unknown = self.dead + between + 1 if norm == 0 else 0, 0


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
