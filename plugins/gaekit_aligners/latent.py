"""Alignment in the bottleneck, GAE's paradigm: the teacher's features come down to the latent's width."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from gaekit.api import Loss, Losses
from gaekit.api.nn import gated_width
from gaekit_aligners.bottleneck import BottleneckAligner, BottleneckConfig
from gaekit_aligners.losses import Distance, distance
from gaekit_aligners.semantic_teacher import SemanticTeacher


class LatentConfig(BottleneckConfig):
    """Settings of `latent`."""

    window: PositiveInt = Field(default=1, description="side of the windows that are squeezed together; the grid stays")
    decoder_depth: NonNegativeInt = Field(
        default=1, description="transformer blocks that read the features back (paper: 4)"
    )
    head_dim: PositiveInt = Field(
        default=64, description="channels of an attention head; divides the teacher's channels"
    )
    mlp_ratio: PositiveFloat = Field(
        default=4.0, description="hidden width of the decoder's gated MLPs over 2/3 of the teacher's channels"
    )
    mlp_multiple: PositiveInt = Field(default=256, description="that hidden width is rounded up to a multiple of it")
    fit_loss: Distance = Field(default="mse", description="between reconstructed and original features while fitting")


class LatentAligner(BottleneckAligner):
    """GAE's semantic teacher: its bottleneck, fitted in the semantic stage, is the target of the latent's mean.

    Fitting minimises the distance of features squeezed to D channels and read back from the features themselves; then
    everything is frozen, and the autoencoder's term is `weight` * distance(mean, target) (arXiv 2603.10365).
    """

    name = "latent"
    revision = 3
    Config = LatentConfig
    fit: ClassVar[Literal["train", "closed"] | None] = "train"

    config: LatentConfig

    def __init__(self, config: Any, *, feature_dim: int, latent_dim: int, hidden_dim: int, grid: int):
        super().__init__(config, feature_dim=feature_dim, latent_dim=latent_dim, hidden_dim=hidden_dim, grid=grid)
        self.semantic = SemanticTeacher(
            feature_dim,
            latent_dim,
            grid,
            window=config.window,
            depth=config.decoder_depth,
            head_dim=config.head_dim,
            mlp_width=gated_width(feature_dim, config.mlp_ratio, multiple=config.mlp_multiple),
        )

    def fit_losses(self, feature_BFHW: Tensor) -> Losses:
        """`feature`: how far the features read back from the bottleneck are from the original ones."""
        reconstructed, original = self.semantic(feature_BFHW)
        return {"feature": Loss(distance(reconstructed, original, self.config.fit_loss))}

    @torch.no_grad()
    def target(self, feature_BFHW: Tensor) -> Tensor:
        """-> target_BDHW, float32, of RMS 1 over channels."""
        with torch.autocast(device_type=feature_BFHW.device.type, enabled=False):
            return self.semantic.encode(feature_BFHW.float())
