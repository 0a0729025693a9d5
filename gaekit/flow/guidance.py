"""Guidance: pushing a denoiser away from a weaker one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.values import Prediction

DenoiserCall = Callable[[Tensor, Tensor, Tensor], Prediction]
"""Any callable (x_BDHW, t_B, label_B) -> Prediction, a Denoiser for one."""
Time = TypeVar("Time", float, Tensor)


@dataclass(frozen=True)
class Guidance:
    """weak + scale * (strong - weak) for t in [start, end), on the raw predictions.

    The weak one is the same denoiser under the null label (classifier-free, arXiv 2207.12598), or, where `other` is
    given, that denoiser under the same label (autoguidance, arXiv 2406.02507); `other` predicts the same quantity. The
    interval is of arXiv 2404.07724. `first3` guides the first three channels alone, as DiT, SiT and
    LightningDiT did. Raises GaekitError for a negative scale or an interval that is none.
    """

    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    channels: Literal["all", "first3"] = "all"
    other: DenoiserCall | None = None

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise GaekitError(f"guidance scale {self.scale} is negative; 1 is no guidance, more guides harder")
        if not 0 <= self.start <= self.end <= 1:
            raise GaekitError(f"guidance interval [{self.start}, {self.end}) must satisfy 0 <= start <= end <= 1")
        if self.channels not in ("all", "first3"):
            raise GaekitError(f"guidance channels {self.channels!r}; known: all, first3")

    def covers(self, t: Time) -> Time | bool:
        """Where t, a number or a tensor, lies in [start, end) and the scale changes anything."""
        return (self.scale != 1.0) & (t >= self.start) & (t < self.end)

    def combine(self, strong: Tensor, weak: Tensor) -> Tensor:
        """The guided prediction of (B, D, H, W) or any rows of it."""
        guided = weak + self.scale * (strong - weak)
        return guided if self.channels == "all" else torch.cat([guided[:, :3], strong[:, 3:]], dim=1)
