"""Standardisation by running statistics of each channel, or of each channel at each position."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gaekit.api import ComponentConfig, Latent, Regularizer
from gaekit.api.nn import pooled_over_ranks

AXES = {"channel": (0, 2, 3), "position": (0,)}


class Standardize(Regularizer):
    """Mean 0 and variance 1 over the data, by running statistics of each channel or each of its positions (RAE's
    release, arXiv 2510.11690, has the second).

    Training updates the statistics from each batch, over all ranks, and uses them at once; evaluation uses them as
    they stand. They are buffers, saved with the model. Meant for a frozen encoder: no gradient flows through them.
    A noise of level 1 has the unit of what comes in, the encoder's features, as RAE adds it before it standardises.
    """

    name = "standardize"
    revision = 2

    class Config(ComponentConfig):
        """Which statistics, and how fast they follow."""

        statistics: Literal["channel", "position"] = Field(
            default="channel", description="of each channel, or of each channel at each position of the grid"
        )
        momentum: float | None = Field(
            default=None,
            ge=0,
            le=1,
            description="share of a new batch; null weighs all batches alike, 0 keeps the statistics as loaded",
        )
        eps: float = Field(default=1e-5, gt=0, description="added to the variance")

    @classmethod
    def depends_on_batch(cls, config: Config) -> bool:
        """It does where statistics are taken of each pass."""
        return config.momentum != 0

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, config: Config, *, latent_dim: int, grid: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid)
        side = grid if config.statistics == "position" else 1
        self.register_buffer("mean", torch.zeros(latent_dim, side, side))
        self.register_buffer("variance", torch.ones(latent_dim, side, side))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, moments_BMHW: Tensor) -> Latent:
        """-> Latent of the standardised moments, float32, with the std that noise of the moments' unit has in it."""
        with torch.autocast(device_type=moments_BMHW.device.type, enabled=False):
            x = moments_BMHW.float()
            if self.training and self.config.momentum != 0:
                self._update(x.detach())
            scale = torch.rsqrt(self.variance + self.config.eps)
            # a copy: a later update in place must not reach a graph that still waits for its backward
            return Latent((x - self.mean.clone()) * scale, scale)

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        """Mix the batch in: its share is 1 / batches seen, not below the momentum, so that the first counts whole."""
        self.batches += 1
        share = (1.0 / self.batches.float()).clamp(min=self.config.momentum or 0.0)
        variance, mean = torch.var_mean(x, dim=AXES[self.config.statistics], correction=0)
        mean, variance = pooled_over_ranks(mean, variance)
        mean, variance = (value.view_as(self.mean) for value in (mean, variance))
        gap = mean - self.mean
        self.variance += share * (variance - self.variance) + share * (1 - share) * gap.square()
        self.mean += share * gap
