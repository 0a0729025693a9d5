"""Distributions of t in [0, 1], t = 1 data, and the shift that moves them towards the noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat
from torch import Tensor

from gaekit.api import ComponentConfig, Draws, TimeSampler
from gaekit.api.flow import shift_time

BASE_DIMENSION = 4096
"""D * H * W at which the derived shift is 1: that of latents of 4 x 32 x 32 (RAE, arXiv 2510.11690)."""

Shift = Annotated[
    PositiveFloat | Literal["dimension"],
    Field(description="t' = s t / (1 + (s - 1) t), below 1 is noisier; dimension: s = 1 / sqrt(D * H * W / 4096)"),
]


def dimension_shift(dimension: int) -> float:
    """The shift for a latent of `dimension` numbers: RAE's sqrt(dimension / 4096), inverted as t = 1 is data here."""
    return math.sqrt(BASE_DIMENSION / dimension)


class ShiftedTimes(TimeSampler):
    """Times of a distribution that a subclass draws, then shifted."""

    def __init__(self, config: Any, *, dimension: int):
        super().__init__(config, dimension=dimension)
        self.shift = dimension_shift(dimension) if config.shift == "dimension" else float(config.shift)

    def times(self, draws: Draws) -> Tensor:
        """-> t_B in [0, 1], float32; either end may occur."""
        return shift_time(self.unshifted(draws), self.shift)

    @abstractmethod
    def unshifted(self, draws: Draws) -> Tensor:
        """t_B before the shift."""


class Uniform(ShiftedTimes):
    """Times uniform in [0, 1), then shifted."""

    name = "uniform"

    class Config(ComponentConfig):
        """The shift."""

        shift: Shift = 1.0

    def unshifted(self, draws: Draws) -> Tensor:
        """U(0, 1)."""
        return draws.uniform()


class LogitNormal(ShiftedTimes):
    """Times whose logit is normal (SD3, arXiv 2403.03206), then shifted: most in the middle, few at the ends."""

    name = "logit_normal"

    class Config(ComponentConfig):
        """The normal distribution of the logit, and the shift."""

        mean: float = Field(default=0.0, description="of the logit; above 0 is nearer the data")
        std: float = Field(default=1.0, gt=0, description="of the logit")
        shift: Shift = 1.0

    def unshifted(self, draws: Draws) -> Tensor:
        """sigmoid(mean + std * normal)."""
        logit_B: Tensor = self.config.mean + self.config.std * draws.normal()
        return logit_B.sigmoid()
