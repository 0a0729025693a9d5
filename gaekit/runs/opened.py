"""A finished run, opened for use: sampling and reconstruction need its artifacts and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaekit.data.images import to_uint8
from gaekit.errors import GaekitError
from gaekit.pipeline.view import RECIPE, View
from gaekit.plugins import Registry
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Guidance, Recipe, Sample, Weak
from gaekit.stages import diffusion
from gaekit.stages.data import Data
from gaekit.stages.generate import WEAK, ImageGenerator
from gaekit.stages.machine import Machine, open_machine
from gaekit.store.artifact import resolve
from gaekit.store.models import Autoencoder, LoadedDenoiser, load_autoencoder, load_denoiser
from gaekit.train.progress import Reporter


@dataclass
class OpenRun:
    """A run folder with its recipe."""

    view: View
    recipe: Recipe
    registry: Registry
    reporter: Reporter

    @cached_property
    def machine(self) -> Machine:
        """This machine, used as the recipe says."""
        return open_machine(self.recipe.runtime, self.reporter)

    @cached_property
    def data(self) -> Data:
        """The recipe's images."""
        return Data(self.recipe, self.registry)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The run's autoencoder, ready to use."""
        model = load_autoencoder(self.view.artifact("autoencoder"), self.registry)
        self.machine.prepare(model.encoder, compiled=False)
        self.machine.prepare(model.decoder, compiled=False)
        return model.to(self.machine.device)

    @cached_property
    def denoiser(self) -> LoadedDenoiser:
        """The run's denoiser, with its averaged weights unless the recipe samples without them."""
        ema = self.recipe.sample is None or self.recipe.sample.ema
        return load_denoiser(self.view.artifact("diffusion"), self.registry, ema=ema)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in label order; () for unconditional."""
        return self.denoiser.spec.classes

    def label(self, wanted: str) -> int:
        """The label of a class given by its name or its index. Raises GaekitError naming the classes."""
        if wanted in self.classes:
            return self.classes.index(wanted)
        if wanted.isdigit() and int(wanted) < len(self.classes):
            return int(wanted)
        known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
        raise GaekitError(
            f"class '{wanted}': this run knows {len(self.classes)} classes: {known or 'it is unconditional'}"
        )

    def guidance(self, scale: float | None = None, weak: Path | None = None) -> Guidance:
        """The recipe's guidance, or that at another scale or by another weak denoiser (a run, a folder or a file)."""
        guidance = self._section.guidance
        changes: dict[str, Any] = {} if scale is None else {"scale": scale}
        if weak is not None:
            changes["weak"] = Weak.model_validate({"from": str(weak)})
        return guidance.model_copy(update=changes)

    def _weak(self, weak: Weak) -> Path:
        """The artifact of a weak denoiser: as the run found it, or where another is asked for, there."""
        if weak == self._section.guidance.weak and (known := self.view.external("sample").get(WEAK)):
            return known
        return resolve(Path(weak.path), diffusion.STAGE.name, diffusion.STAGE.artifact)

    @property
    def _section(self) -> Sample:
        if self.recipe.sample is None:
            raise GaekitError(f"{self.view.path}: its recipe has no section 'sample'")
        return self.recipe.sample

    def sample(self, labels: Sequence[int], *, seed: int | None = None, guidance: Guidance | None = None) -> Tensor:
        """uint8 images (N, R, R, 3), one a label, by the run's own sampler; the same seed gives the same images."""
        section = self._section
        guidance = guidance or section.guidance
        weak = self._weak(guidance.weak) if guidance.weak is not None and guidance.is_by_weak else None
        generator = ImageGenerator(
            self.machine,
            self.registry,
            section,
            self.recipe.seed if seed is None else seed,
            self.autoencoder,
            self.denoiser,
            guidance,
            weak,
            compiled=False,
        )
        made = []
        with self.reporter.bar("samples", len(labels)) as bar:
            for first in range(0, len(labels), section.batch):
                some = list(labels[first : first + section.batch])
                made.append(to_uint8(generator.images("asked", range(first, first + len(some)), some)).cpu())
                bar.advance(len(some))
        return torch.cat(made)

    @torch.no_grad()
    def reconstruct(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """uint8 reconstructions (B, R, R, 3) of batches of images in [-1, 1], by the latent's mean."""
        for image_B3RR in batches:
            yield to_uint8(self.autoencoder.reconstruct(image_B3RR.to(self.machine.device)).float()).cpu()


def open_run(path: Path, registry: Registry, reporter: Reporter | None = None) -> OpenRun:
    """Open a run folder. Raises ArtifactError if it is none."""
    view = View(path)
    _ = view.record
    return OpenRun(view, load_recipe(path / RECIPE, registry), registry, reporter or Reporter())
