"""What a stage is handed: the recipe, the machine, the data, its room, what earlier stages left, and ways to build what
several stages need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from gaekit.api import Aligner, Teacher, TrackedStage, Tracker
from gaekit.errors import GaekitError
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Autoencoder as AutoencoderSection
from gaekit.recipe.schema import Latents, Recipe, Sample
from gaekit.recipe.writing import dump
from gaekit.seeds import seed_for
from gaekit.stages.data import Data
from gaekit.stages.evaluation import Evaluation
from gaekit.stages.machine import Machine
from gaekit.stages.network import hidden_dim
from gaekit.store.files import read_json, write_json
from gaekit.store.models import AutoencoderSpec
from gaekit.store.room import Room
from gaekit.train.precision import resolve_precision
from gaekit.train.step import Host
from gaekit.train.step_times import StepTimes
from gaekit.train.track import Trackers

PRECISION = "precision.json"
"""Beside a stage's outputs: the precision in which they are made."""
S = TypeVar("S", Latents, Sample)
NOTHING_TO_TRAIN = "autoencoder: this recipe takes it from elsewhere, there is nothing to train"


@dataclass
class Job(Evaluation):
    """One stage's work; `machine` and `data` are the run's. `inputs` maps the stages it needs to their artifacts;
    `store` is the folder of all rooms; `caches` are the rooms beside the stage's own that it read, relative to the
    folder of all runs; `times` ends a training that is only measured; `wait`: a room that another process uses is
    waited for; `on_cache` is called on rank 0 when `caches` has grown, `on_trackers` when trackers have begun,
    `on_step` after every step of a training, with its number and its batch."""

    stage: str
    recipe: Recipe
    registry: Registry
    machine: Machine
    data: Data
    room: Room
    inputs: dict[str, Path]
    store: Path
    caches: list[str] = field(default_factory=list)
    times: StepTimes | None = None
    wait: bool = True
    on_cache: Callable[[], None] = lambda: None
    on_step: Callable[[int, int], None] = lambda step, batch: None
    on_trackers: Callable[[], None] = lambda: None

    def use_cache(self, room: Room) -> None:
        """Count a room beside the stage's own among those that the run needs, from now on, before it is made."""
        self.caches.append(f"{self.store.name}/{room.path.parent.name}/{room.path.name}")
        self.world.on_rank0(self.on_cache)

    @property
    def image_size(self) -> int:
        """Side of the recipe's images."""
        return self.recipe.image.size

    def settled(self, section: S) -> S:
        """The section with the precision that it means on this device. What is half made in another is not gone on
        with: GaekitError. Every rank must call it, before it makes anything."""
        precision = resolve_precision(section.precision, self.device)
        self.world.on_rank0(lambda: self._keep_precision(section.precision, precision))
        return section.model_copy(update={"precision": precision})

    def _keep_precision(self, setting: str, precision: str) -> None:
        file = self.room.out / PRECISION
        before = read_json(file)["precision"] if file.exists() else precision
        if before != precision and any(self.room.out.glob("*/*.safetensors")):
            raise GaekitError(
                f"{self.room.out}: begun in {before}, and `precision: {setting}` is {precision} on this device "
                f"({self.device.type}); go on where it was begun, or begin again with --fresh {self.stage}"
            )
        write_json(file, {"precision": precision})

    @property
    def host(self) -> Host:
        """Where a training of this stage lives."""
        runtime, seed = self.recipe.runtime, self.recipe.seed
        return Host(
            self.stage, seed, self.room, runtime, self.device, self.reporter, self._trackers, self.world, self.times,
            self.machine.flops, self.on_step,
        )  # fmt: skip

    def _trackers(self, purge_step: int) -> Trackers:
        configs = self.recipe.runtime.trackers if self.world.is_rank0 else ()
        stage = TrackedStage(self.recipe.name, self.stage, dump(self.recipe))
        make = partial(build, Tracker, registry=self.registry, purge_step=purge_step, stage=stage)
        makers: dict[str, Callable[[], Tracker]] = {}
        for config in configs:
            before = sum(other.use == config.use for other in configs[: len(makers)])
            name = f"{config.use}_{before + 1}" if before else config.use  # a folder each, of two alike too
            makers[name] = partial(make, config, folder=self.room.trackers / name)
        trackers = Trackers(list(makers.items()), self.reporter.say)
        if configs:
            self.on_trackers()
        return trackers

    def show(self, numbers: dict[str, float], images: dict[str, Tensor]) -> None:
        """Log what a stage without a training found; images are grids (3, height, width) in [0, 1]."""
        trackers = self._trackers(0)
        trackers.results(numbers, images)
        trackers.close()

    def seed_torch(self, purpose: str) -> None:
        """Seed torch's global generators for a purpose, such as the first weights of a network."""
        torch.manual_seed(seed_for(self.recipe.seed, self.stage, purpose))

    @property
    def autoencoder_section(self) -> AutoencoderSection:
        """The autoencoder's section where this recipe trains one."""
        section = self.recipe.autoencoder
        if not isinstance(section, AutoencoderSection):
            raise GaekitError(NOTHING_TO_TRAIN)
        return section

    @property
    def autoencoder_spec(self) -> AutoencoderSpec:
        """What decides the shape of the autoencoder that this recipe trains."""
        if (spec := AutoencoderSpec.of_recipe(self.recipe)) is None:
            raise GaekitError(NOTHING_TO_TRAIN)
        return spec

    @property
    def precision(self) -> str:
        """What the stage's networks compute in, frozen ones too: its training's precision, resolved; where it trains
        nothing, the autoencoder's."""
        train = dict(self.recipe.trainings()).get(self.stage) or self.autoencoder_section.train
        return resolve_precision(train.precision, self.device)

    @cached_property
    def teacher(self) -> Teacher | None:
        """The frozen teacher, prepared, if the aligner needs one."""
        aligner_class = self.registry.find("aligner", self.recipe.aligner.use)
        if not getattr(aligner_class, "needs_teacher", True) or self.recipe.teacher is None:
            return None
        teacher = build(Teacher, self.recipe.teacher, self.registry, grid=self.recipe.image.grid)
        self.machine.prepare(teacher.eval().requires_grad_(False), self.precision)
        return teacher

    def build_aligner(self) -> Aligner:
        """The recipe's aligner with fresh weights; the encoder's width is read off a network without memory."""
        self.seed_torch("aligner")
        sizes = {
            "feature_dim": self.teacher.feature_dim if self.teacher else 0,
            "latent_dim": self.recipe.latent_dim,
            "hidden_dim": hidden_dim(self.autoencoder_spec, self.registry),
            "grid": self.recipe.image.grid,
        }
        return build(Aligner, self.recipe.aligner, self.registry, **sizes)
