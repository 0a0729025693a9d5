"""Images from (seed, index, label): the path from noise to pixels that the sample stage, previews and `gaekit sample`
share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gaekit.api import Denoiser, Sampler
from gaekit.data.images import to_uint8
from gaekit.errors import ArtifactError
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.processes import get_process
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Guidance as GuidanceSection
from gaekit.recipe.schema import Sample
from gaekit.seeds import generator_for
from gaekit.stages.machine import Machine
from gaekit.store.models import Autoencoder, LoadedDenoiser, Statistics, load_denoiser
from gaekit.train.draws import ImageDraws
from gaekit.train.precision import computing, resolve_precision

MOST_CLASSES_SHOWN = 10
WEAK, WEAK_KEY = "weak", "sample.guidance.weak.from"
"""The weak denoiser of autoguidance: its name among a job's inputs, and its key in recipes."""
LIKE = 0.01
"""How far the statistics of latents may differ, in standard deviations, and be of the same autoencoder."""


class ImageGenerator:
    """Samples a denoiser and decodes. An image depends on (seed, name, index, label) and, in its last bit, on the
    chunk."""

    def __init__(
        self,
        machine: Machine,
        registry: Registry,
        section: Sample,
        seed: int,
        autoencoder: Autoencoder,
        denoiser: LoadedDenoiser,
        guidance: GuidanceSection,
        weak: Path | None = None,
        *,
        compiled: bool = True,
    ):
        """`weak` is the artifact of the weak denoiser, where `guidance` is by one and does something."""
        self.section, self.seed, self.device = section, seed, machine.device
        self.autoencoder, self.denoiser = autoencoder.to(machine.device), denoiser
        self.sampler = build(Sampler, section.sampler, registry)
        self.process = get_process(denoiser.spec.path, denoiser.spec.betas)
        network = self._load_weak(weak, registry) if guidance.is_by_weak else None
        for module in (denoiser.network, autoencoder.decoder, network):
            if module is not None:
                machine.prepare(module, section.precision, compiled=compiled)
        self.guidance = Guidance(guidance.scale, guidance.start, guidance.end, guidance.channels, network)
        self.evaluations = 0

    def _load_weak(self, artifact: Path | None, registry: Registry) -> Denoiser:
        assert artifact is not None
        weak = load_denoiser(artifact, registry, ema=self.section.ema)
        check_weak(weak, self.denoiser, artifact)
        return weak.network

    @torch.no_grad()
    def images(
        self,
        name: str,
        indices: Sequence[int],
        labels: Sequence[int],
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """-> image_B3RR for images `indices` of the series `name`; float32, not clamped."""
        spec = self.denoiser.spec
        draws = ImageDraws(self.seed, f"sample {name}", indices, self.device)
        noise = draws.normal(spec.channels, spec.grid, spec.grid)
        label_B = torch.tensor(labels, device=self.device)
        field = Field(
            self.denoiser.network,
            self.process,
            self.guidance,
            label_B,
            len(spec.classes),
            self.denoiser.network.predicts,
        )
        with computing(resolve_precision(self.section.precision, self.device), self.device):
            latent = self.sampler.sample(field, noise, draws=draws, on_step=on_step)
            image = self.autoencoder.decode(self.denoiser.statistics.restore(latent.float()))
        self.evaluations += field.evaluations
        return image.float()

    def chunk(self, first: int, labels: Sequence[int], on_step: Callable[[int, int], None] | None = None) -> Tensor:
        """The chunk of images from `first` on of those that the sample stage makes of `labels`, uint8 (n, R, R, 3) on
        the CPU. The last is padded while it is made, since the size of a chunk decides the last bit."""
        size, classes = self.section.batch, max(1, len(self.denoiser.spec.classes))
        indices = range(first, first + size)
        padded = [labels[i] if i < len(labels) else i % classes for i in indices]
        pixels = to_uint8(self.images("images", indices, padded, on_step=on_step)).cpu()
        return pixels[: len(labels) - first].contiguous()


def check_weak(weak: LoadedDenoiser, strong: LoadedDenoiser, source: Path) -> None:
    """Raises ArtifactError where the two denoisers of autoguidance differ in what they speak of."""
    one, other = weak.spec, strong.spec
    pairs = {
        "latent_dim": (one.channels, other.channels),
        "grid": (one.grid, other.grid),
        "number of classes": (len(one.classes), len(other.classes)),
        "path": (one.path, other.path),
        "betas": (one.betas, other.betas),
        "predicts": (weak.network.predicts, strong.network.predicts),
    }
    faults = [f"{name} is {a}, and {b} for the guided one" for name, (a, b) in pairs.items() if a != b]
    if not faults and one.classes != other.classes and not (_unnamed(one.classes) or _unnamed(other.classes)):
        a, b = next(pair for pair in zip(one.classes, other.classes, strict=True) if pair[0] != pair[1])
        faults = [f"the class names differ: '{a}' stands where the guided one has '{b}'"]
    if not faults and not _close(weak.statistics, strong.statistics):
        faults = ["its latents have other statistics than the guided one's, so they are of another autoencoder"]
    if faults:
        raise ArtifactError(f"{WEAK_KEY}: {source} does not fit the denoiser that it should guide: {'; '.join(faults)}")


def _unnamed(classes: tuple[str, ...]) -> bool:
    """Classes by their number, as of an imported denoiser."""
    return classes == tuple(str(label) for label in range(len(classes)))


def _close(one: Statistics, other: Statistics) -> bool:
    """Equal within a hundredth of the standard deviation: of the same latents, mirrored ones or not."""
    if one.mean_D.shape != other.mean_D.shape:
        return False
    scale = LIKE * other.std_D
    near = ((one.mean_D - other.mean_D).abs() <= scale) & ((one.std_D - other.std_D).abs() <= scale)
    return bool(near.all())


def labels_for(count: int, classes: int, rule: str, seed: int) -> list[int]:
    """The label of each image. Balanced: the same number for each class, the first few one more, shuffled by the seed
    (class
    order spoils scores that split in order). Random: uniform. Without classes: all 0, the null label."""
    if classes == 0:
        return [0] * count
    generator = generator_for(seed, "sample labels")
    if rule == "random":
        return torch.randint(classes, (count,), generator=generator).tolist()
    ordered = torch.arange(count) % classes
    return ordered[torch.randperm(count, generator=generator)].tolist()


def preview_labels(classes: int) -> list[int]:
    """Two of each of the first classes, or sixteen of none."""
    shown = min(classes, MOST_CLASSES_SHOWN)
    return [*range(shown), *range(shown)] if shown else [0] * 16
