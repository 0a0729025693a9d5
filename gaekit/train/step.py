"""A step of a training: where the training lives, and what of a batch one forward pass takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch

from gaekit.parallel import World
from gaekit.recipe.schema import Runtime
from gaekit.store.room import Room
from gaekit.train.draws import BatchDraws
from gaekit.train.flops import FlopMeter
from gaekit.train.progress import Reporter
from gaekit.train.step_times import StepTimes
from gaekit.train.track import Trackers
from gaekit.values import Draws


class Batch(Protocol):
    """What a stream yields: a batch that can be cut into micro-batches and moved to a device."""

    def part(self, first: int, last: int) -> Self:
        """Rows first to last."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Host:
    """Where a training lives: the room, the machine's settings, and where it reports."""

    stage: str
    seed: int
    room: Room
    runtime: Runtime
    device: torch.device
    reporter: Reporter
    trackers: Callable[[int], Trackers]
    world: World = field(default_factory=World)
    times: StepTimes | None = None
    """Where a training is only measured: what ends it after some steps."""
    flops: FlopMeter | None = None
    on_step: Callable[[int, int], None] = lambda step, batch: None


@dataclass(frozen=True)
class Step:
    """One micro-batch of step `index` (from 0): rows `first` to `last` of the global batch.

    `final`: whether it is this rank's last of the step, at which optimizers step.
    """

    index: int
    first: int
    last: int
    batch: int
    final: bool
    pictures: bool
    host: Host

    def draws(self, name: str) -> Draws:
        """Randomness for this step under a name: a row's numbers are f(seed, stage, step, name, row)."""
        purpose = (self.host.seed, self.host.stage, self.index, name)
        return BatchDraws(purpose, self.first, self.last, self.host.device)
