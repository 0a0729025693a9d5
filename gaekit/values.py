"""The small values that components hand to each other.

Shape suffixes, used throughout: B batch, R image side, H W latent grid, F teacher width, E encoder width,
M moments, D latent width. Images are float32 in [-1, 1]; t = 0 is noise, t = 1 is data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """What a regularizer makes of the encoder's moments.

    mean_BDHW: the latent itself, which caches, reconstruction and evaluation use.
    std_BDHW: the unit of the noise that a noise sampler may add: the posterior's deviation for KL, the unit of what
    comes in for a standardisation, else the scale.
    scale: the RMS over channels at which a norm holds each position of the mean; 1.0 where none holds it. Targets of
    alignment, which have RMS 1, are compared in this unit.
    penalty: a term of the autoencoder's loss, summed over an image's latent and averaged over the batch, or None. The
    loss divides it by the image's 3 R^2 values, over which the reconstruction is a mean: `weight` is that of a loss
    which sums both, as LDM's.
    """

    mean_BDHW: Tensor
    std_BDHW: Tensor | float = 1.0
    penalty: Loss | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Encoded:
    """A batch of held-out images as an autoencoder sees them, for metrics of latents; all on one device.

    latent_BDHW: the latents' means, float32. label_B: the images' classes. index_B: their places in the split, on the
    CPU, for random numbers that depend on the image alone. image_B3RR: the images, in [-1, 1].
    decode: latents like these, any number of them, whatever was done to them -> images in [-1, 1] on the grid of 8
    bits, as they would be saved.
    """

    latent_BDHW: Tensor
    label_B: Tensor
    index_B: Tensor
    image_B3RR: Tensor
    decode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """A denoiser's answer at (x, t, label).

    out_BDHW: what the denoiser `predicts` (velocity, noise, score or data).
    variance_BDHW: the raw learned variance channels in [-1, 1] of a DDPM with learned range, else None.
    features: hidden states asked for by `taps`, named `block.<index>`, each (B, tokens, width).
    """

    out_BDHW: Tensor
    variance_BDHW: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """One term: `value` (a scalar) is logged as it is, `value * weight` enters the sum that is minimised.

    adaptive: an alignment term whose weight the autoencoder stage multiplies by the factor that gives the adaptive
    terms, summed without their weights, as much gradient at the encoder's last layer as the reconstruction has there.
    """

    value: Tensor
    weight: float | Tensor = 1.0
    adaptive: bool = False

    @property
    def weighted(self) -> Tensor:
        """The term as it enters the sum."""
        return self.value * self.weight


Losses = dict[str, Loss]


class Draws(ABC):
    """Where randomness comes from: numbers for a batch of B that depend on what they are for, not on how the
    work is split over ranks and micro-batches. Successive calls give new numbers."""

    @abstractmethod
    def normal(self, *tail: int) -> Tensor:
        """Standard normal numbers of shape (B, *tail), float32."""

    @abstractmethod
    def uniform(self) -> Tensor:
        """Uniform numbers in [0, 1) of shape (B,), float32."""


class GeneratorDraws(Draws):
    """Draws from one plain generator, in order; `generator=None` is torch's global CPU generator."""

    def __init__(self, batch: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"):
        self.batch, self.generator, self.device = batch, generator, device

    def normal(self, *tail: int) -> Tensor:
        """Standard normal numbers (B, *tail)."""
        return torch.randn(self.batch, *tail, generator=self.generator).to(self.device)

    def uniform(self) -> Tensor:
        """Uniform numbers (B,)."""
        return torch.rand(self.batch, generator=self.generator).to(self.device)


def to_pixels(image_B3RR: Tensor) -> Tensor:
    """Images around [-1, 1] -> uint8 of the same shape, the grid on which images are saved and compared:
    floor(clamp(127.5 x + 128, 0, 255))."""
    return (image_B3RR.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
