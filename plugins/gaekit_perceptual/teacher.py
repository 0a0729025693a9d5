"""Distance in a frozen teacher's features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, Perceptual, Slot, Teacher
from gaekit.api.nn import FrozenModule

PIXELS_A_FEATURE = 8
EPS = 1e-10


class TeacherDistanceConfig(ComponentConfig):
    """Settings of `teacher`."""

    teacher: Annotated[ComponentConfig, Slot("teacher")] = Field(description="whose features are compared")
    grid: PositiveInt | None = Field(
        default=None, description="side of the grid of features compared; null is one for every 8 pixels of a side"
    )


class TeacherDistance(Perceptual):
    """Squared distance of a frozen teacher's features, of length 1 over channels, averaged over positions.

    LPIPS without its learned weights (arXiv 1801.03924, eq. 1), for one layer of any teacher: 0 for equal images, at
    most 4.
    """

    name = "teacher"
    Config = TeacherDistanceConfig

    config: TeacherDistanceConfig

    def __init__(self, config: Any, *, image_size: int, teacher: Callable[..., Teacher]):
        super().__init__(config, image_size=image_size)
        grid = config.grid or max(1, image_size // PIXELS_A_FEATURE)
        self._frozen = FrozenModule(teacher(grid=grid))

    @property
    def teacher(self) -> Teacher:
        """The frozen network."""
        return self._frozen.network

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        """-> distance_B in [0, 4], float32, differentiable in both."""
        difference_BFHW = self._direction(image_B3RR) - self._direction(other_B3RR)
        return difference_BFHW.square().sum(1).mean((1, 2))

    def _direction(self, image_B3RR: Tensor) -> Tensor:
        feature_BFHW: Tensor = self._frozen(image_B3RR).float()
        return feature_BFHW * torch.rsqrt(feature_BFHW.square().sum(1, keepdim=True) + EPS)
