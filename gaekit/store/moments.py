"""Mean and standard deviation of what does not fit in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Moments:
    """Mean and standard deviation per channel, streamed in float64 by Chan's update; (B, C, H, W) batches of any
    size."""

    def __init__(self, channels: int):
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, batch_BCHW: Tensor) -> None:
        """Take in a batch."""
        values = batch_BCHW.detach().double().cpu().transpose(0, 1).flatten(1)
        mean = values.mean(1)
        self._take(values.shape[1], mean, (values - mean[:, None]).square().sum(1))

    def merge(self, other: Moments) -> None:
        """Take in what another has seen."""
        if other.count:
            self._take(other.count, other.mean, other.squares)

    def _take(self, count: int, mean: Tensor, squares: Tensor) -> None:
        delta, total = mean - self.mean, self.count + count
        self.squares += squares + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def to_json(self) -> dict[str, Any]:
        """What it has seen, exactly."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Moments:
        """Inverse of `to_json`."""
        made = cls(len(found["mean"]))
        made.count = found["count"]
        made.mean, made.squares = (torch.tensor(found[key], dtype=torch.float64) for key in ("mean", "squares"))
        return made

    @property
    def std(self) -> Tensor:
        """Population standard deviation."""
        return (self.squares / self.count).sqrt()
