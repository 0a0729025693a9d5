"""What metrics are computed with: a stage's job, or what a command sets up for images of which there is no run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from gaekit.api import Dataset
from gaekit.data.images import Images
from gaekit.parallel import World
from gaekit.plugins import Registry
from gaekit.store.room import Room
from gaekit.train.progress import Reporter

if TYPE_CHECKING:
    from gaekit.stages.machine import Machine


class Splits(Protocol):
    """The real images at one size. `digest` stands for their content."""

    @property
    def dataset(self) -> Dataset:
        """The data set that they are of."""

    @property
    def digest(self) -> str:
        """What stands for their content in protocols. Raises DataAbsent."""

    def images(self, split: str, *, pinned: bool = False) -> Images:
        """One split; `pinned`: its batches are for a GPU."""


class Evaluation(ABC):
    """The machine, the plugins and the real images (`data`) with which metrics are computed. `store` is the folder of
    all rooms, in which what metrics took in of the real images is kept."""

    registry: Registry
    machine: Machine
    data: Splits
    store: Path

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the images that are judged, in pixels."""

    @abstractmethod
    def use_cache(self, room: Room) -> None:
        """Be told of a room of the store, before it is read or made."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.machine.device

    @property
    def world(self) -> World:
        """The processes that share the work."""
        return self.machine.world

    @property
    def reporter(self) -> Reporter:
        """Where it tells what it does."""
        return self.machine.reporter

    def images(self, split: str) -> Images:
        """One split of the real images, for its device."""
        return self.data.images(split, pinned=self.device.type == "cuda")

    def skipped(self, images: Images) -> dict[str, str]:
        """What any rank skipped of a split, and why. Every rank must call it."""
        return {key: reason for found in self.world.all_gather(images.skipped) for key, reason in found.items()}
