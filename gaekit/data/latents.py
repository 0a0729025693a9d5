"""Standardised latents as batches for the denoiser, from a cache: a row at a time, in a deterministic order."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaekit.data.ahead import one_ahead
from gaekit.data.order import Flags, Indices, TrainingOrder
from gaekit.errors import ArtifactError
from gaekit.seeds import random_rows, seed_for
from gaekit.store.models import Statistics
from gaekit.store.shard_reader import MANIFEST, ShardReader, Stored, read_manifest
from gaekit.store.shards import INDEX

__all__ = ["INDEX", "LABEL", "LATENT", "MIRROR", "LatentBatch", "LatentCache", "TrainingLatents"]

LATENT, MIRROR, LABEL = "latents", "latents_flip", "labels"


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

    def pinned(self) -> LatentBatch:
        """The same in memory from which a GPU copies while it computes."""
        return LatentBatch(self.latent_BDHW.pin_memory(), self.label_B.pin_memory())


class TrainingLatents(ABC):
    """The latents that a denoiser trains on, by what the manifest in `folder` says of them.

    Raises ArtifactError if it lacks something, or its statistics are not finite.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]):
        self.folder, self.facts = folder, facts
        try:
            mean, std = (torch.tensor(facts["statistics"][key], dtype=torch.float64).float() for key in ("mean", "std"))
            if not mean.ndim or mean.shape != std.shape:
                raise ValueError("statistics of one shape")
            self.classes: tuple[str, ...] = tuple(facts["classes"])
            self.latent_dim, self.grid = int(facts["latent_dim"]), int(facts["grid"])
            self.stores_moments, self.has_mirror = facts["store"] == "moments", bool(facts["flip"])
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ArtifactError(f"{folder}: the manifest lacks {error}; build the cache again") from error
        if not (mean.isfinite().all() and std.isfinite().all() and bool((std > 0).all())):
            raise ArtifactError(
                f"{folder / MANIFEST}: statistics that are not finite or not positive: mean {mean.tolist()[:4]}, "
                f"std {std.tolist()[:4]} (the first channels); build the cache again"
            )
        self.statistics = self._scale = Statistics(mean, std)

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def training(
        self, seed: int, batch: int, start: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[LatentBatch]:
        """Endless batches from step `start` on; the k-th depends on (seed, k) alone, and so does the posterior's
        sample. `batch` is the global batch, of which a rank takes the rows [first, last)."""

    def _finished(self, latent: Tensor, label: Tensor, seed: int, step: int, first: int) -> LatentBatch:
        """Rows of a global batch, from `first` on, as the denoiser sees them; noise is drawn where they are."""
        if self.stores_moments:
            mean, std = latent.chunk(2, dim=1)
            rows, tail, purpose = first + len(mean), mean.shape[1:], seed_for(seed, "posterior", step)
            latent = mean + std * random_rows(Tensor.normal_, purpose, first, rows, tail, mean.device)
        return LatentBatch(self._scale.standardise(latent), label)


class LatentCache(TrainingLatents):
    """A finished cache. Raises ArtifactError if its manifest is incomplete, or its shards are not what that says.

    pinned: batches come in pinned memory, for a GPU.
    """

    def __init__(self, folder: Path, *, pinned: bool = False):
        facts = read_manifest(folder)
        super().__init__(folder, facts)
        if facts.get("online"):
            raise ArtifactError(f"{folder}: holds statistics alone (`latents: {{online: true}}`), there are no latents")
        self.reader, self._pinned = ShardReader(folder), pinned
        for file, head in zip(self.reader.files, self.reader.heads, strict=True):
            if fault := fault_of_head(head, facts):
                raise ArtifactError(f"{file}: {fault}; the cache has to be built again")

    def __len__(self) -> int:
        return len(self.reader)

    def training(
        self, seed: int, batch: int, start: int, *, first: int = 0, last: int | None = None
    ) -> Iterator[LatentBatch]:
        """As promised; a thread reads the next batch while one is used."""
        order = TrainingOrder(len(self), batch, seed, flip=self.has_mirror)

        def read() -> Generator[LatentBatch, None, None]:
            for step in itertools.count(start):
                visited, mirrored = order.batch(step, first, last)
                labels = self.reader.rows(LABEL, torch.from_numpy(visited))
                yield self._finished(self._rows(visited, mirrored), labels, seed, step, first)

        with closing(one_ahead(read(), lambda made: made.pinned() if self._pinned else made)) as ahead:
            yield from ahead

    def _rows(self, indices: Indices, mirrored: Flags) -> Tensor:
        out = self.reader.empty(LATENT, len(indices))
        for name, wanted in ((LATENT, ~mirrored), (MIRROR, mirrored)):
            places = np.flatnonzero(wanted)
            self.reader.read(name, indices[places], out, places)
        return out.float()

    def in_order(self, batch: int) -> Iterator[LatentBatch]:
        """Every image's latent mean as it is (not standardised, not mirrored), in the order of the data set."""
        for first in range(0, len(self), batch):
            indices = torch.arange(first, min(first + batch, len(self)))
            latent = self.reader.rows(LATENT, indices).float()
            yield LatentBatch(latent[:, : self.latent_dim], self.reader.rows(LABEL, indices))


def fault_of_head(head: dict[str, Stored], facts: dict[str, Any]) -> str | None:
    """In what a shard's tensors are not those that the cache's manifest says, or None."""
    wanted = (LATENT, MIRROR, LABEL, INDEX) if facts["flip"] else (LATENT, LABEL, INDEX)
    if missing := [name for name in wanted if name not in head]:
        return f"holds no {', '.join(missing)}"
    channels, grid = facts["latent_dim"] * (2 if facts["store"] == "moments" else 1), facts["grid"]
    for name in wanted[: wanted.index(LABEL)]:
        shape, dtype = head[name].shape[1:], str(head[name].dtype).removeprefix("torch.")
        if shape != (channels, grid, grid):
            return f"{name} of shape {shape}, and the manifest says {(channels, grid, grid)}"
        if facts.get("dtype", dtype) != dtype:
            return f"{name} of type {dtype}, and the manifest says {facts['dtype']}"
    return None
