"""An example of a plugin: Laplace noise for the decoder, and a latent squashed by tanh."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from gaekit.api import Component, ComponentConfig, Draws, Latent, NoiseSampler, Regularizer, hookimpl

GAEKIT_API = 1


class Laplace(NoiseSampler):
    """Laplace noise: heavier tails than the normal."""

    name = "laplace"

    class Config(ComponentConfig):
        """Settings of `laplace`."""

        scale: PositiveFloat = Field(default=0.1, description="of the noise, as a share of the latent's std")

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        """Mean + scale * std * (a difference of two exponential numbers, each half a chi-square of two normals)."""
        shape = latent.mean_BDHW.shape[1:]
        plus, minus = (draws.normal(2, *shape).square().sum(1) / 2 for _ in range(2))
        z_BDHW: Tensor = latent.mean_BDHW + self.config.scale * latent.std_BDHW * (plus - minus)
        return z_BDHW


class Tanh(Regularizer):
    """Squashes the latent into (-limit, limit) by tanh."""

    name = "tanh"

    class Config(ComponentConfig):
        """Settings of `tanh`."""

        limit: PositiveFloat = Field(default=3.0, description="largest magnitude of a latent's value")

    def forward(self, moments_BMHW: Tensor) -> Latent:
        """Limit * tanh(moments / limit); no penalty."""
        return Latent(self.config.limit * torch.tanh(moments_BMHW / self.config.limit))


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """What this plugin provides."""
    return [Laplace, Tanh]
