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

    Takes 2D moments: mean and log-variance. The penalty is summed over an image's latent and averaged over the batch.
    The autoencoder's loss divides it by the image's number of values, 3 R^2, over which its reconstruction is a mean:
    `weight` is the kl_weight of LDM and VA-VAE (1e-6), which sum both, at any image size and width. A weight w of means
    of both, as in GAE's release, is w * 3 R^2 / (D H W) here: 24 w for 32 x 16 x 16 latents of 256 px.
    """

    name = "kl"

    class Config(ComponentConfig):
        """Weight of the penalty, and the range of the posterior."""

        weight: float = Field(default=1e-6, ge=0, description="LDM's kl_weight: of sums, divided by the image's values")
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
