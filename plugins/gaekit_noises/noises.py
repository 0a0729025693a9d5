"""What the decoder is shown in training instead of the latent: z = mean + level * std * eps, one level an image."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from gaekit.api import ComponentConfig, Draws, Latent, NoiseSampler


def _spread(level_B: Tensor, latent: Tensor) -> Tensor:
    return level_B.to(latent.device).reshape(-1, *[1] * (latent.ndim - 1))


def _eps(latent: Tensor, draws: Draws) -> Tensor:
    return draws.normal(*latent.shape[1:]).to(latent.device)


class LeveledNoise(NoiseSampler):
    """z = mean + level * std * eps with a level drawn for each image by a subclass."""

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        """-> z_BDHW, float32; draws the levels, then eps."""
        mean = latent.mean_BDHW.float()
        level = _spread(self.levels(draws), mean)
        return mean + level * latent.std_BDHW * _eps(mean, draws)

    @abstractmethod
    def levels(self, draws: Draws) -> Tensor:
        """level_B >= 0."""


class Constant(NoiseSampler):
    """The same level for all images: 1 samples KL's posterior, 0 shows the decoder the mean itself."""

    name = "constant"

    class Config(ComponentConfig):
        """The level."""

        level: float = Field(default=1.0, ge=0, description="noise in units of the latent's std")

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        """mean + level * std * eps; at level 0 nothing is drawn."""
        mean: Tensor = latent.mean_BDHW.float()
        if self.config.level == 0:
            return mean
        z: Tensor = mean + self.config.level * latent.std_BDHW * _eps(mean, draws)
        return z


class HalfNormal(LeveledNoise):
    """A level |N(0, scale^2)| for each image."""

    name = "half_normal"

    class Config(ComponentConfig):
        """The scale."""

        scale: float = Field(default=0.25, ge=0, description="root mean square of the level; its mean is 0.798 of it")

    @property
    def scale(self) -> float:
        """Root mean square of the level."""
        return float(self.config.scale)

    def levels(self, draws: Draws) -> Tensor:
        """|scale * N(0, 1)|."""
        return (self.scale * draws.normal()).abs()


class Dynamic(HalfNormal):
    """GAE's dynamic noise: a level |N(0, (sigma / 0.8)^2)| for each image, sigma on average (arXiv 2603.10365)."""

    name = "dynamic"

    class Config(ComponentConfig):
        """The mean level."""

        sigma: float = Field(
            default=0.2, ge=0, description="C, the mean level (0.8 is sqrt(2 / pi), rounded as published)"
        )

    @property
    def scale(self) -> float:
        """C / 0.8."""
        return float(self.config.sigma) / 0.8


class Uniform(LeveledNoise):
    """A level uniform in [0, max) for each image (RAE, arXiv 2510.11690)."""

    name = "uniform"

    class Config(ComponentConfig):
        """The largest level."""

        max: float = Field(default=0.8, ge=0, description="the largest level")

    def levels(self, draws: Draws) -> Tensor:
        """U(0, max)."""
        level_B: Tensor = self.config.max * draws.uniform()
        return level_B


class Interpolate(NoiseSampler):
    """Fades the latent into noise: (1 - g) mean + g * scale * eps, g ~ U(0, max) (l-DeTok, arXiv 2507.15856).

    The defaults are the release's g ~ U(0, 1) and gamma = 3. Its 0.7 is another number: the share of image patches that
    it hides from its encoder, which no encoder here does. It fades samples of the posterior, this fades the mean.
    """

    name = "interpolate"
    revision = 3

    class Config(ComponentConfig):
        """How far the latent fades, and into how much noise."""

        max: float = Field(default=1.0, ge=0, le=1, description="the largest share g of noise")
        scale: float = Field(
            default=3.0, gt=0, description="gamma, deviation of the noise that a latent of RMS 1 fades into"
        )

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        """-> z_BDHW, float32; draws g, then eps, in units of the latent's scale. Its std has no part in it."""
        mean = latent.mean_BDHW.float()
        share = _spread(self.config.max * draws.uniform(), mean)
        return torch.lerp(mean, self.config.scale * latent.scale * _eps(mean, draws), share)
