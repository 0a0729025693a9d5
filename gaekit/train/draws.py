"""Randomness as a function of what it is for: (seed, stage, step, name) in training, (seed, image index) in
sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaekit.seeds import generator_for
from gaekit.values import Draws


class BatchDraws(Draws):
    """Draws for the whole global batch, of which this rank and micro-batch sees rows `first` to `last`.

    Any split into rows sees the same numbers, since each draws them all and keeps its own.
    """

    def __init__(self, generator: torch.Generator, batch: int, first: int, last: int, device: torch.device):
        self.generator, self.batch, self.first, self.last, self.device = generator, batch, first, last, device

    def normal(self, *tail: int) -> Tensor:
        """Standard normal numbers (last - first, *tail)."""
        return torch.randn(self.batch, *tail, generator=self.generator)[self.first : self.last].to(self.device)

    def uniform(self) -> Tensor:
        """Uniform numbers (last - first,)."""
        return torch.rand(self.batch, generator=self.generator)[self.first : self.last].to(self.device)


class ImageDraws(Draws):
    """One CPU generator an image index: an image's numbers do not depend on its neighbours."""

    def __init__(self, seed: int, name: str, indices: Sequence[int], device: torch.device):
        self.generators = [generator_for(seed, name, index) for index in indices]
        self.device = device

    def normal(self, *tail: int) -> Tensor:
        """Standard normal numbers (len(indices), *tail)."""
        return torch.stack([torch.randn(*tail, generator=g) for g in self.generators]).to(self.device)

    def uniform(self) -> Tensor:
        """Uniform numbers (len(indices),)."""
        return torch.cat([torch.rand(1, generator=g) for g in self.generators]).to(self.device)
