"""Standardisation by running statistics of each channel."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gaekit.api import ComponentConfig, Latent, Regularizer
from gaekit.api.nn import pooled_over_ranks


class Standardize(Regularizer):
    """Mean 0 and variance 1 for each channel over the data, by running statistics (RAE, arXiv 2510.11690).

    Training updates the statistics from each batch, over all ranks, and uses them at once; evaluation uses them as
    they stand. They are buffers, saved with the model. Meant for a frozen encoder: no gradient flows through them.
    """

    name = "standardize"

    class Config(ComponentConfig):
        """How fast the statistics follow."""

        momentum: float | None = Field(
            default=None, gt=0, le=1, description="share of a new batch; null weighs all batches alike"
        )
        eps: float = Field(default=1e-6, gt=0, description="added to the variance")

    mean_D: Tensor
    variance_D: Tensor
    batches: Tensor

    def __init__(self, config: Config, *, latent_dim: int):
        super().__init__(config, latent_dim=latent_dim)
        self.register_buffer("mean_D", torch.zeros(latent_dim))
        self.register_buffer("variance_D", torch.ones(latent_dim))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, moments_BMHW: Tensor) -> Latent:
        """-> Latent of the standardised moments, float32."""
        with torch.autocast(device_type=moments_BMHW.device.type, enabled=False):
            x = moments_BMHW.float()
            if self.training:
                self._update(x.detach())
            scale = torch.rsqrt(self.variance_D + self.config.eps)
            # views of copies: a later update in place must not reach a graph that still waits for its backward
            return Latent((x - self.mean_D.clone()[:, None, None]) * scale[:, None, None])

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        """Mix the batch in: its share is 1 / batches seen, not below the momentum, so that the first counts whole."""
        self.batches += 1
        share = (1.0 / self.batches.float()).clamp(min=self.config.momentum or 0.0)
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        mean, variance = pooled_over_ranks(mean, variance)
        gap = mean - self.mean_D
        self.variance_D += share * (variance - self.variance_D) + share * (1 - share) * gap.square()
        self.mean_D += share * gap
