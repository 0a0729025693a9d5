"""Images from (seed, index, label): the path from noise to pixels that the sample stage, previews and `gaekit sample`
share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gaekit.api import Sampler
from gaekit.errors import GaekitError
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.processes import get_process
from gaekit.plugins import build
from gaekit.recipe.schema import Guidance as GuidanceSection
from gaekit.recipe.schema import Sample
from gaekit.seeds import generator_for
from gaekit.stages.job import Job
from gaekit.store.models import Autoencoder, LoadedDenoiser
from gaekit.train.draws import ImageDraws
from gaekit.train.training import autocast, resolve_precision

MOST_CLASSES_SHOWN = 10


class ImageGenerator:
    """Samples a denoiser and decodes. An image depends on (seed, name, index, label) and, in its last bit, on the
    chunk."""

    def __init__(self, job: Job, autoencoder: Autoencoder, denoiser: LoadedDenoiser, guidance: GuidanceSection,
                 *, compiled: bool = True):  # fmt: skip
        section = job.recipe.sample
        if not isinstance(section, Sample):
            raise GaekitError("sample: this recipe has no such section; it says which sampler to use")
        self.section, self.seed, self.device = section, job.recipe.seed, job.device
        self.autoencoder, self.denoiser = autoencoder.to(job.device), denoiser
        job.prepare(denoiser.network, section.precision, compiled=compiled)
        job.prepare(autoencoder.decoder, section.precision, compiled=compiled)
        self.sampler = build(Sampler, section.sampler, job.registry)
        self.process = get_process(denoiser.spec.path, denoiser.spec.betas)
        self.guidance = Guidance(guidance.scale, guidance.start, guidance.end, guidance.channels)
        self.evaluations = 0

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
        with autocast(resolve_precision(self.section.precision, self.device), self.device):
            latent = self.sampler.sample(field, noise, draws=draws, on_step=on_step)
            image = self.autoencoder.decode(self.denoiser.statistics.restore(latent.float()))
        self.evaluations += field.evaluations
        return image.float()


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
