"""What an evaluation needs where there is no run: real images at one size, a machine, a folder for what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from gaekit.api import Dataset, ImageSource
from gaekit.data.given import SameSize
from gaekit.data.images import Images
from gaekit.guard import ImagePromise
from gaekit.parallel import join_world
from gaekit.plugins import Registry
from gaekit.recipe.schema import Runtime
from gaekit.stages.evaluation import Evaluation
from gaekit.stages.machine import Machine, choose_device, open_machine
from gaekit.store.room import Room
from gaekit.train.progress import Reporter


@dataclass(frozen=True)
class Sizing:
    """The side of the images that are judged. Where an image of that size is `named`, all must be of it; else all are
    cropped and resized to it, as in training."""

    side: int
    named: str | None = None

    @property
    def facts(self) -> str:
        """What a protocol says of it."""
        return "as they are" if self.named else "centre crop, resized as in training"

    def images(
        self, source: ImageSource, workers: int, *, on_bad_image: str = "error", pinned: bool = False,
        promise: ImagePromise | None = None, cache_gb: float = 0.0,
    ) -> Images:  # fmt: skip
        """Images of that size in batches."""
        exact = source if self.named is None else SameSize(source, self.side, self.named)
        return Images(
            exact, self.side, cache_bytes=int(cache_gb * 1e9), on_bad_image=on_bad_image,  # type: ignore[arg-type]
            workers=workers, pinned=pinned, promise=promise,
        )  # fmt: skip


@dataclass
class SizedSplits:
    """A data set and its splits at one size."""

    dataset: Dataset
    sizing: Sizing
    workers: int = 0
    promise: ImagePromise | None = None
    cache_gb: float = 0.0

    @property
    def digest(self) -> str:
        """What stands for the content of the data set."""
        return self.dataset.digest()

    def images(self, split: str, *, pinned: bool = False) -> Images:
        """One split."""
        source = self.dataset.train() if split == "train" else self.dataset.validation()
        return self.sizing.images(
            source, self.workers, on_bad_image=self.dataset.on_bad_image, pinned=pinned, promise=self.promise,
            cache_gb=self.cache_gb,
        )  # fmt: skip


@dataclass
class Bench(Evaluation):
    """An evaluation without a run."""

    registry: Registry
    machine: Machine
    data: SizedSplits
    store: Path

    @property
    def image_size(self) -> int:
        """Side of the images that are judged."""
        return self.data.sizing.side

    def use_cache(self, room: Room) -> None:
        """Nothing is kept beyond the evaluation."""


@contextmanager
def open_place(device: str, reporter: Reporter | None = None) -> Iterator[tuple[Machine, Path]]:
    """(the machine, a folder that is removed at the end) of one evaluation, over the ranks where torchrun started
    several. Raises GaekitError where the device is not there."""
    runtime = Runtime(device=device, compile=False)
    with join_world(choose_device(device)) as world, TemporaryDirectory(prefix="gaekit-") as folder:
        shown = (reporter or Reporter()) if world.is_rank0 else Reporter(Console(quiet=True))
        yield open_machine(runtime, shown, world), Path(world.broadcast(folder))
        world.barrier()
