"""The kind of component that shows a training to people, and what it is told of the training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gaekit.api.component import Component


@dataclass(frozen=True)
class TrackedStage:
    """What a tracker is told of what it tracks: the run's name, the stage, and the resolved recipe as JSON values."""

    run: str
    stage: str
    recipe: Mapping[str, Any]


class Tracker(Component, ABC):
    """Where scalars and images of one stage go. One that raises is told of once and left out from then on: it ends no
    training.

    `folder` belongs to it, and is the same when the stage is resumed, also by another run that shares its room.
    `purge_step` is the first step that a resumed stage may log again, 0 for one that begins. Files in
    `folder` that end in `.events` are TensorBoard's: the run's folder shows them under TensorBoard's names, so that
    `tensorboard --logdir runs` finds each once.
    """

    kind = "tracker"

    def __init__(self, config: Any, *, folder: Path, purge_step: int, stage: TrackedStage):
        self.config, self.folder, self.purge_step, self.stage = config, folder, purge_step, stage

    @abstractmethod
    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """`images` are grids (3, height, width) in [0, 1]."""

    def results(self, numbers: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """What a stage that trains nothing found, once: one value each, such as the metrics, no curve. Logged at step 0
        by default."""
        self.log(0, numbers, images)

    @abstractmethod
    def close(self) -> None:
        """Flush everything to disk."""
