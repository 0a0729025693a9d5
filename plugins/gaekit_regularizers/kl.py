"""The KL term of a variational autoencoder."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from gaekit.api import ComponentConfig, Latent, Loss, Regularizer


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] >= ends[1]:
        raise ValueError(f"[{ends[0]:g}, {ends[1]:g}] is no range; write the smaller number first")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class Kl(Regularizer):
    """A Gaussian posterior pulled to N(0, I), as in latent diffusion's autoencoders (arXiv 2112.10752).

    Takes 2D moments: mean and log-variance. The penalty is summed over the latent's numbers and averaged over the
    batch, so published weights (1e-6) hold as they are.
    """

    name = "kl"

    class Config(ComponentConfig):
        """Weight of the penalty, and the range of the posterior."""

        weight: float = Field(default=1e-6, ge=0, description="of KL summed over the latent, averaged over the batch")
        clamp: Range = Field(default=(-30.0, 20.0), description="range of the log-variance")

    @property
    def channels(self) -> int:
        """2D: mean and log-variance."""
        return 2 * self.latent_dim

    def forward(self, moments_BMHW: Tensor) -> Latent:
        """-> Latent with the posterior's std and the penalty KL(N(mean, std^2) || N(0, 1)), float32."""
        with torch.autocast(device_type=moments_BMHW.device.type, enabled=False):
            mean, log_variance = moments_BMHW.float().chunk(2, dim=1)
            log_variance = log_variance.clamp(*self.config.clamp)
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
            penalty = Loss(divergence.flatten(1).sum(1).mean(), self.config.weight)
            return Latent(mean, torch.exp(log_variance / 2), penalty)
