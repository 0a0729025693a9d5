"""The latent cache as batches for the denoiser: read by memory map, standardised, in a deterministic order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gaekit.data.order import TrainingOrder
from gaekit.errors import ArtifactError
from gaekit.seeds import generator_for
from gaekit.store.models import Statistics
from gaekit.store.shards import ShardReader

LATENT, MIRROR, LABEL, INDEX = "latents", "latents_flip", "labels", "index"


@dataclass(frozen=True)
class LatentBatch:
    """Standardised latents with their labels."""

    latent_BDHW: Tensor
    label_B: Tensor

    def __len__(self) -> int:
        return len(self.label_B)

    def part(self, first: int, last: int) -> LatentBatch:
        """Rows first to last."""
        return LatentBatch(self.latent_BDHW[first:last], self.label_B[first:last])

    def to(self, device: torch.device) -> LatentBatch:
        """The same on a device."""
        return LatentBatch(self.latent_BDHW.to(device, non_blocking=True), self.label_B.to(device, non_blocking=True))


class LatentCache:
    """A finished cache. Raises ArtifactError if its statistics are incomplete."""

    def __init__(self, folder: Path):
        self.reader = ShardReader(folder)
        facts = self.reader.facts
        try:
            mean, std = (torch.tensor(facts["statistics"][key], dtype=torch.float64).float() for key in ("mean", "std"))
            self.classes: tuple[str, ...] = tuple(facts["classes"])
            self.latent_dim, self.grid = int(facts["latent_dim"]), int(facts["grid"])
            self.stores_moments, self.has_mirror = facts["store"] == "moments", bool(facts["flip"])
        except KeyError as error:
            raise ArtifactError(f"{folder}: the manifest lacks {error}; build the cache again") from error
        self.statistics = Statistics(mean, std)

    def __len__(self) -> int:
        return len(self.reader)

    def training(
        self, seed: int, batch: int, start: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[LatentBatch]:
        """Endless batches from step `start` on; the k-th depends on (seed, k) alone, and so does the posterior's
        sample. `batch` is the global batch, of which a rank takes the rows [first, last)."""
        order = TrainingOrder(len(self), batch, seed, flip=self.has_mirror)
        step = start
        while True:
            visited, mirrored = order.batch(step, first, last)
            indices = torch.from_numpy(visited)
            latent = self._rows(indices, torch.from_numpy(mirrored))
            if self.stores_moments:
                mean, std = latent.chunk(2, dim=1)
                noise = torch.randn(batch, *mean.shape[1:], generator=generator_for(seed, "posterior", step))
                latent = mean + std * noise[first:last]
            labels = self.reader.rows(LABEL, indices)
            yield LatentBatch(self.statistics.standardise(latent), labels)
            step += 1

    def _rows(self, indices: Tensor, flips: Tensor) -> Tensor:
        out = self.reader.rows(LATENT, indices).float()
        if bool(flips.any()):
            out[flips] = self.reader.rows(MIRROR, indices[flips]).float()
        return out

    def in_order(self, batch: int) -> Iterator[LatentBatch]:
        """Every image's latent mean as it is (not standardised, not mirrored), in the order of the data set."""
        for first in range(0, len(self), batch):
            indices = torch.arange(first, min(first + batch, len(self)))
            latent = self.reader.rows(LATENT, indices).float()
            yield LatentBatch(latent[:, : self.latent_dim], self.reader.rows(LABEL, indices))
