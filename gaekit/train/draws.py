"""Randomness as a function of what it is for: (seed, stage, step, name, row) in training, (seed, image index) in
sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gaekit.seeds import Fill, random_rows, seed_for
from gaekit.values import Draws


class BatchDraws(Draws):
    """Draws for rows [first, last) of the global batch, on the device that uses them.

    A row's numbers depend on (purpose, number of the call, index of the row), so that any split into ranks and
    micro-batches sees the same; they are others on a GPU than on a CPU.
    """

    def __init__(self, purpose: Sequence[int | str], first: int, last: int, device: torch.device):
        self.purpose, self.first, self.last, self.device = purpose, first, last, device
        self._calls = 0

    def normal(self, *tail: int) -> Tensor:
        """Standard normal numbers (last - first, *tail)."""
        return self._rows(Tensor.normal_, tail)

    def uniform(self) -> Tensor:
        """Uniform numbers (last - first,)."""
        return self._rows(Tensor.uniform_, ())

    def _rows(self, fill: Fill, tail: Sequence[int]) -> Tensor:
        seed = seed_for(*self.purpose, self._calls)
        self._calls += 1
        return random_rows(fill, seed, self.first, self.last, tail, self.device)


class ImageDraws(Draws):
    """Draws for images by their index, on the device that uses them: an image's numbers depend on (seed, name, number
    of the call, index), not on its neighbours; they are others on a GPU than on a CPU."""

    def __init__(self, seed: int, name: str, indices: Sequence[int], device: torch.device):
        self.seed, self.name, self.indices, self.device = seed, name, list(indices), device
        self._calls = 0

    def normal(self, *tail: int) -> Tensor:
        """Standard normal numbers (len(indices), *tail)."""
        return self._images(Tensor.normal_, tail)

    def uniform(self) -> Tensor:
        """Uniform numbers (len(indices),)."""
        return self._images(Tensor.uniform_, ())

    def _images(self, fill: Fill, tail: Sequence[int]) -> Tensor:
        seed = seed_for(self.seed, self.name, self._calls)
        self._calls += 1
        rows = [random_rows(fill, seed, index, index + 1, tail, self.device, block=1) for index in self.indices]
        return torch.cat(rows)
