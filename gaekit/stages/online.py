"""The latents that a denoiser trains on: from the cache, or, with `latents: {online: true}`, encoded at every step."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gaekit.data.latents import LatentBatch, LatentCache, TrainingLatents
from gaekit.recipe.schema import Latents
from gaekit.stages.job import Job
from gaekit.stages.latents import encode, load_encoder
from gaekit.store.models import Statistics
from gaekit.store.shard_reader import read_manifest


class OnlineLatents(TrainingLatents):
    """Latents of the training images, decoded and encoded when they are asked for: those of a cache of the same recipe,
    in the same order, up to what the encoder's arithmetic makes of other batches, and, on a GPU, to the samples of a
    posterior, which are drawn where the latents are."""

    def __init__(self, job: Job, section: Latents):
        folder = job.inputs["latents"]
        super().__init__(folder, read_manifest(folder))
        # As they were measured: what `auto` means may have changed with the device.
        section = section.model_copy(update={"precision": self.facts.get("precision", section.precision)})
        self._section, self._device = section, job.device
        mean, std = (own.to(job.device) for own in (self.statistics.mean_D, self.statistics.std_D))
        self._scale = Statistics(mean, std)
        self._images, self._model = job.images("train"), load_encoder(job, section)

    def __len__(self) -> int:
        return len(self._images)

    def training(
        self, seed: int, batch: int, start: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[LatentBatch]:
        """As promised, on the device; `latents.batch` images are encoded at once."""
        stream = self._images.training(seed, batch, start=start, flip=self.has_mirror, first=first, last=last)
        for step, images in enumerate(stream, start):
            size = self._section.batch
            parts = [images.part(at, at + size).to(self._device) for at in range(0, len(images), size)]
            latent = torch.cat([encode(self._model, part, self._section).float() for part in parts])
            label = images.label_B.to(self._device)
            yield self._finished(latent, label, seed, step, first)


def latents_for(job: Job) -> TrainingLatents:
    """What a denoiser of this recipe trains on. Raises ArtifactError for a cache that is damaged or incomplete."""
    section = job.recipe.latents
    if isinstance(section, Latents) and section.online:
        return OnlineLatents(job, section)
    cache = LatentCache(job.inputs["latents"], pinned=job.device.type == "cuda")
    if "autoencoder" not in cache.facts:
        job.reporter.say(f"  {cache.folder}: does not say which autoencoder made it; that it is this recipe's is yours")
    return cache
