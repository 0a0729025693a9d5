"""What all teachers share: a frozen network that owns its input size and its mean and std."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gaekit.api import GaekitError, Teacher


@dataclass(frozen=True)
class Backbone:
    """A loaded network (normalised pixels -> features (B, F, H, W)) and what it expects.

    feature_dim: F. reduction: pixels of a side for each feature. mean, std: per channel, of pixels in [0, 1].
    pooled_dim: P, where the network has a method `pooled` (normalised pixels -> (B, P)).
    """

    network: nn.Module
    feature_dim: int
    reduction: int
    mean: Sequence[float]
    std: Sequence[float]
    pooled_dim: int | None = None


class FrozenTeacher(Teacher):
    """A teacher around a `Backbone`: always in eval mode, no parameter requires a gradient, features are float32.

    Gradients flow through it to an image that requires them (perceptual distances need that), and only then.
    """

    input_size: int
    scale: Tensor
    shift: Tensor

    def __init__(self, config: Any, *, grid: int):
        super().__init__(config, grid=grid)
        with torch.random.fork_rng(devices=[]):  # networks initialise before they load: not from the run's generator
            backbone = self.load()
        self.network = backbone.network
        self.feature_dim, self.pooled_dim = backbone.feature_dim, backbone.pooled_dim
        self.input_size = grid * backbone.reduction
        mean, std = (torch.tensor(list(v), dtype=torch.float32).view(-1, 1, 1) for v in (backbone.mean, backbone.std))
        self.register_buffer("scale", 0.5 / std, persistent=False)  # [-1, 1] -> [0, 1] -> standardised, in one step
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.requires_grad_(False)
        self.train(False)

    @abstractmethod
    def load(self) -> Backbone:
        """Build the network with its weights for inputs of `grid` times its reduction. torch's CPU generator is forked
        around this call. Raises GaekitError."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever is asked: a teacher's batch statistics and dropout never move."""
        return super().train(False)

    def preprocess(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> what the network expects: its size and its mean and std, float32."""
        return resize(image_B3RR.float(), self.input_size) * self.scale + self.shift

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> feature_BFHW, H = W = grid, float32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and image_B3RR.requires_grad):
            feature_BFHW: Tensor = self.network(self.preprocess(image_B3RR)).float()
        expected = (self.feature_dim, self.grid, self.grid)
        if tuple(feature_BFHW.shape[1:]) != expected:
            raise GaekitError(
                f"teacher '{self.name}': features of {self.input_size} px are {tuple(feature_BFHW.shape[1:])}, "
                f"(channels, height, width) should be {expected}; choose another layer or another model"
            )
        return feature_BFHW

    def pooled(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> the model's own embedding of each, (B, P), float32. Raises GaekitError where it has
        none."""
        if self.pooled_dim is None:
            raise GaekitError(
                f"teacher '{self.name}' has no pooled embedding after layer {self.config.layer}"
                f"{'' if getattr(self.config, 'norm', True) else ' without its norm'}; take its last layer, -1, with "
                "`norm: true`, or another teacher"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and image_B3RR.requires_grad):
            embedding_BP: Tensor = self.network.pooled(self.preprocess(image_B3RR)).float()  # type: ignore[operator]
        return embedding_BP


def resize(image_B3RR: Tensor, side: int) -> Tensor:
    """Square images to `side` pixels by Pillow's bicubic kernel, which antialiases when it shrinks."""
    if image_B3RR.shape[-2:] == (side, side):
        return image_B3RR
    # antialias=True is Pillow's kernel (a = -0.5) both ways; without it torch takes OpenCV's (a = -0.75)
    return F.interpolate(image_B3RR, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
