"""How long a training's step takes and what memory it needs: the stage's own code for a few steps, on made-up data, in
a folder that is removed afterwards."""

from __future__ import annotations

import gc
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from gaekit.api import ComponentConfig, Dataset
from gaekit.data.latents import INDEX, LABEL, LATENT, MIRROR
from gaekit.errors import GaekitError
from gaekit.parallel import World
from gaekit.plugins import Registry
from gaekit.recipe.schema import Adversary, Autoencoder, From, Latents, Recipe
from gaekit.sizing.budget import feature_bytes, teacher_width
from gaekit.stages import autoencoder, latents, semantic, stage_named
from gaekit.stages.data import Data
from gaekit.stages.job import Job
from gaekit.stages.latents import DTYPES
from gaekit.stages.machine import Machine, open_machine
from gaekit.stages.network import UNKNOWN_CLASSES
from gaekit.stages.stage import Stage
from gaekit.store.artifact import resolve
from gaekit.store.models import Autoencoder as Model
from gaekit.store.models import save_aligner, save_autoencoder
from gaekit.store.room import Room
from gaekit.store.shards import ShardWriter
from gaekit.train.progress import Reporter
from gaekit.train.step_times import StepTimes

IMAGES = 32
"""How many are made up; a training visits them again and again."""
MOST_STEPS, ENOUGH_SECONDS = 20, 5.0
NEVER = 1 << 62
MICRO = "runtime.micro_batch"


@dataclass(frozen=True)
class Measured:
    """One training: seconds of its median step after the first, None where it could not be run, as `note` says.

    `peak` are bytes: on CUDA all that tensors took at once; on a CPU by how much this process's memory grew, which is
    less than its need where memory of before was used again. None where the system does not tell.
    """

    stage: str
    seconds: float | None
    peak: int | None = None
    peak_of: str = ""
    note: str = ""


def measure_stages(
    recipe: Recipe, registry: Registry, *, classes: int | None, images: int | None, nproc: int = 1
) -> Iterator[Measured]:
    """Run some steps of every training of the recipe as the first of `nproc` processes would, without the others.

    With the stage's own losses, at the recipe's sizes and batch; the adversary takes part from the start. Raises
    GaekitError where a batch does not divide over the processes.
    """
    device, world = open_machine(recipe.runtime, _quiet()).device, FirstRank(of=nproc)
    rehearsed = _rehearsed(recipe, registry, images)
    for _, train in recipe.trainings():
        world.rows(train.batch)
    with tempfile.TemporaryDirectory(prefix="gaekit-measure-") as folder:
        for name, _ in recipe.trainings():
            rehearsal = Rehearsal(rehearsed, registry, device, Path(folder), classes, world)
            yield rehearsal.measure(stage_named(name))


@dataclass(frozen=True)
class FirstRank(World):
    """The first of `of` processes, of which there is no other: it takes its own rows of each batch, alone."""

    of: int = 1

    def rows(self, batch: int) -> tuple[int, int]:
        """The first rows of a global batch. Raises GaekitError if so many processes do not divide it."""
        return World(size=self.of).rows(batch)


@dataclass
class Rehearsal:
    """The trainings of a recipe on data that is made up, in `folder`, as one process of `world`."""

    recipe: Recipe
    registry: Registry
    device: torch.device
    folder: Path
    classes: int | None
    world: FirstRank = field(default_factory=FirstRank)

    def measure(self, stage: Stage) -> Measured:
        """Some steps of one training; on CUDA with smaller micro-batches where memory does not suffice."""
        try:
            return self._fitting(stage, self._inputs(stage))
        except GaekitError as error:
            return Measured(stage.name, None, note=f"not measured: {error}")

    def _fitting(self, stage: Stage, inputs: Mapping[str, Path]) -> Measured:
        train = stage.training(self.recipe)
        assert train is not None
        first, last = self.world.rows(train.batch)
        rows = last - first
        asked = micro = min(self.recipe.runtime.micro_batch or rows, rows)
        while True:
            with peak_memory(self.device) as peak:
                seconds = self._steps(stage, inputs, micro)
            if seconds is not None:
                note = "" if micro == asked else f"out of memory at {asked} images a pass: --set {MICRO}={micro}"
                return Measured(stage.name, seconds, peak.bytes, peak.of, note)
            if micro == 1:
                return Measured(stage.name, None, note="not measured: out of memory even at one image a pass")
            micro = next(m for m in range(micro // 2, 0, -1) if rows % m == 0)

    def _steps(self, stage: Stage, inputs: Mapping[str, Path], micro: int) -> float | None:
        """Seconds of the median step at so many images a pass; None where they do not fit in the device's memory."""
        assert stage.train is not None
        times, fits = StepTimes(MOST_STEPS, ENOUGH_SECONDS), True
        job = self._job(stage.name, inputs, micro, times)
        try:
            stage.train(job)
        except torch.OutOfMemoryError:
            fits = False
        del job
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return times.median if fits else None

    def _job(
        self, stage: str, inputs: Mapping[str, Path], micro: int | None = None, times: StepTimes | None = None
    ) -> Job:
        room = Room(Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=self.folder)))
        recipe = _with(self.recipe, runtime=self.recipe.runtime.model_copy(update={"micro_batch": micro}))
        machine, data = Machine(self.device, recipe.runtime, _quiet(), self.world), Data(recipe, self.registry)
        data.dataset = MadeUpImages(recipe.image.size, UNKNOWN_CLASSES if self.classes is None else self.classes)
        return Job(stage, recipe, self.registry, machine, data, room, dict(inputs), room.path, times=times)

    def _inputs(self, stage: Stage) -> dict[str, Path]:
        """What a stage's training reads, untrained. Raises GaekitError where an artifact of elsewhere is not there."""
        section = self.recipe.latents
        online = isinstance(section, Latents) and section.online
        makers = {"semantic": self._aligner, "latents": self._cache, "autoencoder": self._autoencoder}
        # Without previews it is online latents alone for which a denoiser's training encodes.
        return {name: makers[name]() for name in stage.needs if name != "autoencoder" or online}

    def _aligner(self) -> Path:
        """The aligner as the semantic stage would leave it: solved at once, or untrained."""
        job = self._job("semantic", {})
        aligner = job.build_aligner()
        path = job.room.out / semantic.STAGE.artifact
        if aligner.fit == "train":
            save_aligner(path, aligner, aligner.state_dict(), {})
        else:
            semantic.run(job)
        return path

    def _autoencoder(self) -> Path:
        """The artifact that the recipe names, or an untrained autoencoder."""
        if isinstance(section := self.recipe.autoencoder, From):
            return resolve(Path(section.path), autoencoder.STAGE.name, autoencoder.STAGE.artifact)
        job = self._job("autoencoder", {})
        path = job.room.out / autoencoder.STAGE.artifact
        model = Model(job.autoencoder_spec, self.registry)
        save_autoencoder(path, model.state_dict(), model.spec, {}, {})
        return path

    def _cache(self) -> Path:
        """The cache that the recipe names, or one of latents that no image has; of latents that are not kept, what is
        known of them."""
        section = self.recipe.latents
        if isinstance(section, From):
            return resolve(Path(section.path), latents.STAGE.name, latents.STAGE.artifact)
        assert isinstance(section, Latents)
        online = section.online
        recipe, folder = self.recipe, Path(tempfile.mkdtemp(prefix="latents-", dir=self.folder))
        classes = UNKNOWN_CLASSES if self.classes is None else self.classes
        channels = recipe.latent_dim * (2 if section.store == "moments" else 1)
        shape = (IMAGES, channels, recipe.image.grid, recipe.image.grid)
        rows = {LATENT: torch.rand(shape).to(DTYPES[section.dtype]), LABEL: torch.arange(IMAGES) % max(1, classes)}
        rows |= {INDEX: torch.arange(IMAGES), **({MIRROR: rows[LATENT].flip(-1)} if section.flip else {})}
        writer = ShardWriter(folder, IMAGES, 0 if online else IMAGES)
        with writer:
            if not online:
                writer.add(rows)
        facts = {
            "format": 1, "latent_dim": recipe.latent_dim, "grid": recipe.image.grid, "store": section.store,
            "flip": section.flip, "dtype": str(DTYPES[section.dtype]).removeprefix("torch."),
            "classes": [str(i) for i in range(classes)], "autoencoder": "", "dataset": "", "skipped": {},
            "statistics": {"mean": [0.0] * recipe.latent_dim, "std": [1.0] * recipe.latent_dim},
        }  # fmt: skip
        writer.finish(facts | ({"online": True} if online else {}))
        return folder


def _rehearsed(recipe: Recipe, registry: Registry, images: int | None) -> Recipe:
    """The recipe with nothing saved or drawn, no last step in sight, and every term from the start."""
    runtime = recipe.runtime.model_copy(
        update={
            "workers": 0, "trackers": (), "log_every": NEVER, "images_every": NEVER, "save_every": NEVER,
            "cache_gb": _cache_gb(recipe, registry, images),
        }
    )  # fmt: skip
    changes: dict[str, Any] = {"runtime": runtime, "sample": None, "evaluate": None}
    for stage, train in recipe.trainings():
        section = stage_named(stage).section(recipe)
        assert section is not None
        new: dict[str, Any] = {"train": train.model_copy(update={"steps": NEVER, "init": None})}
        if isinstance(section, Autoencoder) and isinstance(section.adversary, Adversary):
            new["adversary"] = section.adversary.model_copy(update={"start": 0, "warmup": 0})
        changes[stage] = section.model_copy(update=new)
    return _with(recipe, **changes)


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update=changes)


def _cache_gb(recipe: Recipe, registry: Registry, images: int | None) -> float:
    """Enough for the made-up images and, where the run would keep the teacher's features, for theirs."""
    width = teacher_width(recipe, registry)
    kept = images is not None and width is not None and feature_bytes(recipe, width, images) <= _limit(recipe)
    pixels = IMAGES * 3 * recipe.image.size**2 + 1
    return recipe.runtime.cache_gb if kept else pixels / 1e9


def _limit(recipe: Recipe) -> float:
    return recipe.runtime.cache_gb * 1e9


def _quiet() -> Reporter:
    return Reporter(Console(quiet=True))


class MadeUpImages(Dataset):
    """Coloured noise at the recipe's size, which no file holds, in as many classes as the recipe's data has."""

    name = "made_up"

    def __init__(self, size: int, classes: int):
        super().__init__(ComponentConfig(use=self.name))
        self.size, self.classes = size, tuple(str(i) for i in range(classes))

    def train(self) -> MadeUpImages:
        """Itself: it is its only split."""
        return self

    def validation(self) -> MadeUpImages:
        """Itself."""
        return self

    def digest(self) -> str:
        """That of no file."""
        return "0" * 64

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        pixels = np.random.default_rng(index).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
        return Image.fromarray(pixels), index % max(1, len(self.classes))

    def key(self, index: int) -> str:
        """Its number."""
        return str(index)


@dataclass
class Peak:
    """The most memory that a block took, in bytes, and of what; None where the system does not tell."""

    bytes: int | None = None
    of: str = ""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """The most memory during the block, known at its end."""
    peak = Peak(of="tensors on the device" if device.type == "cuda" else "growth of this process's memory")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    before = _forget_peak()
    yield peak
    after = _resident("VmHWM")
    peak.bytes = None if before is None or after is None else max(0, after - before)


def _forget_peak() -> int | None:
    """Start Linux's high-water mark of resident memory anew; -> bytes now, None where there is no such mark."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    except OSError:
        return None
    return _resident("VmRSS")


def _resident(field: str) -> int | None:
    try:
        text = Path(f"/proc/{os.getpid()}/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else None
