"""Normalisations over the channels of each position, without parameters, with statistics in float32."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from gaekit.api import ComponentConfig, Latent, Regularizer


class EpsConfig(ComponentConfig):
    """The one setting of a norm."""

    eps: float = Field(default=1e-6, gt=0, description="keeps the division finite")


class ChannelNorm(Regularizer):
    """A latent that is the normalised moments, without penalty; noise has the unit of its RMS, `scale`."""

    Config = EpsConfig

    @property
    def scale(self) -> float:
        """The RMS over channels of each position."""
        return 1.0

    def forward(self, moments_BMHW: Tensor) -> Latent:
        """-> Latent of float32 mean; autocast does not reach the statistics."""
        with torch.autocast(device_type=moments_BMHW.device.type, enabled=False):
            return Latent(self.normalise(moments_BMHW.float()), self.scale, scale=self.scale)

    @abstractmethod
    def normalise(self, x: Tensor) -> Tensor:
        """(B, D, H, W) float32 -> the same shape."""


class RmsNorm(ChannelNorm):
    """RMSNorm over channels, without parameters (GAE, arXiv 2603.10365): each position has norm sqrt(D)."""

    name = "rms_norm"

    def normalise(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps)."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.config.eps)


class UnitNorm(ChannelNorm):
    """Each position on the unit sphere: RMSNorm's direction, with norm 1.

    Noise and targets of alignment shrink with it, so that a level of noise and a weight mean what they do for RMSNorm.
    """

    name = "unit_norm"
    revision = 2

    @property
    def scale(self) -> float:
        """1 / sqrt(D)."""
        return float(self.latent_dim**-0.5)

    def normalise(self, x: Tensor) -> Tensor:
        """x / max(|x|, eps)."""
        return normalize(x, dim=1, eps=self.config.eps)


class LayerNorm(ChannelNorm):
    """LayerNorm over channels, without parameters: mean 0, variance 1 at each position."""

    name = "layer_norm"

    def normalise(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps)."""
        x = x - x.mean(1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.config.eps)


class Plain(Regularizer):
    """No bound at all: the latent is what the encoder gives."""

    name = "none"

    def forward(self, moments_BMHW: Tensor) -> Latent:
        """-> Latent of the moments themselves, float32."""
        return Latent(moments_BMHW.float())
