"""What the sections of a report are made from: read or computed once, when the first of them asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gaekit.data.images import ImageBatch, Images, to_float
from gaekit.data.latents import LATENT, LatentCache
from gaekit.errors import GaekitError
from gaekit.pipeline.view import View
from gaekit.plugins import Registry
from gaekit.runs.opened import OpenRun, open_run
from gaekit.runs.report.measures import spread
from gaekit.runs.report.pictures import Pictures
from gaekit.stages.data import Data
from gaekit.store.artifact import open_artifact
from gaekit.store.curves import Curves, read_curves
from gaekit.store.room import Room
from gaekit.store.shard_reader import read_manifest
from gaekit.train.progress import Reporter

HELD_OUT, LATENTS = 256, 1024
"""Images, and latents, that numbers of a report are taken over, at most."""
PIXELS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Pixels that networks see for one such number: a report takes seconds, on a CPU too."""
BATCH = 32
FINISHED = ("done", "cached", "from")


class Absent(GaekitError):
    """What a section of the report needs is not there: the message is the sentence that stands in its place."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out images (N, R, R, 3) uint8 with their labels, latents and reconstructions."""

    pixels: Tensor
    label: Tensor
    latent: Tensor
    rebuilt: Tensor


@dataclass
class Source:
    """A run and what is computed of it for its report. Everything may raise GaekitError where the run lacks it."""

    view: View
    registry: Registry
    reporter: Reporter
    pictures: Pictures

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json."""
        return self.view.record

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved recipe as plain data, whatever plugins are here."""
        return self.run.settings

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """metrics.json; {} where nothing was measured."""
        return self.run.metrics

    def entry(self, stage: str) -> dict[str, Any]:
        """What run.json says of a stage. Raises Absent where the recipe has no such stage, or it is not finished."""
        entry = self.record["stages"].get(stage)
        if entry is None:
            raise Absent(f"This recipe has no stage “{stage}”.")
        if entry["status"] not in FINISHED:
            raise Absent(f"The stage “{stage}” is not finished.")
        return dict(entry)

    @cached_property
    def run(self) -> OpenRun:
        """The run, opened for use."""
        return open_run(self.view.path, self.registry, self.reporter)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the denoiser's classes; () for unconditional. Reads the artifact's head alone."""
        self.entry("diffusion")
        return tuple(open_artifact(self.view.artifact("diffusion"), "denoiser").config.get("classes", ()))

    @cached_property
    def data(self) -> Data:
        """The data on which the run was trained. Raises Absent where what is there is other data."""
        data = self.run.data
        if self.record.get("data") not in (None, data.digest):
            raise Absent("The data set at hand is not that on which this run was trained.")
        return data

    @cached_property
    def training_images(self) -> Images:
        """The training split."""
        return self.data.images("train")

    @property
    def device(self) -> torch.device:
        """Where networks compute."""
        return self.run.machine.device

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return int(self.settings["image"]["size"])

    def affordable(self, most: int) -> int:
        """How many images networks look at for a number, at most `most`."""
        return max(8, min(most, PIXELS["cpu" if self.device.type == "cpu" else "cuda"] // self.size**2))

    @cached_property
    def held_out(self) -> HeldOut:
        """Held-out images, evenly spread over their split."""
        self.entry("autoencoder")
        images = self.data.images("validation")
        places = spread(len(images), self.affordable(HELD_OUT))
        if not places:
            raise Absent("The data set holds out no images.")
        batch = images.batch(places, [False] * len(places))
        latent = self.encode(batch.pixels_BRR3)
        return HeldOut(batch.pixels_BRR3, batch.label_B, latent, self.decode(latent))

    def training_batch(self, places: list[int]) -> ImageBatch:
        """Training images by their places in the split."""
        return self.training_images.batch(places, [False] * len(places))

    @torch.no_grad()
    def encode(self, pixels_NRR3: Tensor) -> Tensor:
        """uint8 images -> their latents' means (N, D, H, W), float32 on the CPU."""
        model = self.run.autoencoder
        parts = (model.encode(to_float(part).to(self.device))[1].mean_BDHW for part in torch.split(pixels_NRR3, BATCH))
        return torch.cat([part.float().cpu() for part in parts])

    def decode(self, latent_NDHW: Tensor) -> Tensor:
        """Latents -> uint8 images (N, R, R, 3) on the CPU."""
        return self.run.decode(latent_NDHW).pixels

    @cached_property
    def cache(self) -> LatentCache | None:
        """The cached latents of the training images, where the run kept some."""
        entry = self.record["stages"].get("latents")
        if entry is None or entry["status"] not in FINISHED:
            return None
        folder = self.view.artifact("latents")
        return None if read_manifest(folder).get("online") else LatentCache(folder)

    @cached_property
    def latents(self) -> tuple[Tensor, str]:
        """(means (N, D, H, W) as the autoencoder gives them, of what images they are)."""
        self.entry("autoencoder")
        if self.cache is None:
            return self.held_out.latent, f"{len(self.held_out.latent):,} held-out images"
        places = spread(len(self.cache), LATENTS)
        rows = self.cache.reader.rows(LATENT, torch.tensor(places)).float()[:, : self.cache.latent_dim]
        return rows, f"{len(rows):,} of {len(self.cache):,} training images"

    def curves(self, stage: str) -> Curves:
        """The scalars that a stage's training logged, up to the step that this run uses; none where there are none."""
        entry = self.record["stages"][stage]
        room = Room(self.view.path / stage, entry["subfolder"])
        return read_curves(room.curves, (entry.get("record") or {}).get("steps"))

    def sentences(self) -> Iterator[str]:
        """How the artifacts of stages came to be, where this run has not made them."""
        for stage, entry in self.record["stages"].items():
            if entry["status"] == "from":
                yield f"The stage “{stage}” was taken from {entry['artifact']}."
