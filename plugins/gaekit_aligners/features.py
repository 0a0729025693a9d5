"""Alignment at the teacher's width: before the bottleneck (pre) or after it (post)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from gaekit.api import Aligner, ComponentConfig, Latent, Loss, Losses
from gaekit.api.nn import rms_normalize
from gaekit_aligners.losses import distance, marginal_cosine, marginal_distances


class FeatureConfig(ComponentConfig):
    """Settings of `pre`, which `post` shares."""

    weight: NonNegativeFloat = Field(default=1.0, description="of the alignment terms in the autoencoder's loss")
    loss: Literal["mse", "cosine", "vf"] = Field(
        default="mse", description="mse on features of RMS 1; 1 - cosine; vf: VA-VAE's two terms with margins"
    )
    cosine_margin: NonNegativeFloat = Field(default=0.5, description="vf: cosines above 1 - this are good enough")
    distance_margin: NonNegativeFloat = Field(default=0.25, description="vf: similarities may differ by this")


class PostConfig(FeatureConfig):
    """Settings of `post`."""

    adaptive: bool = Field(
        default=False,
        json_schema_extra={"neutral": False},
        description="scale the weight by the ratio of the reconstruction's gradient to the alignment's at the "
        "encoder's last layer (VA-VAE); pre aligns before that layer and has no gradient there",
    )


class FeatureAligner(Aligner):
    """Aligns a linear projection of something of the autoencoder's with the teacher's features; learned with it."""

    config: FeatureConfig

    def __init__(self, config: Any, *, feature_dim: int, latent_dim: int, hidden_dim: int, grid: int):
        super().__init__(config, feature_dim=feature_dim, latent_dim=latent_dim, hidden_dim=hidden_dim, grid=grid)
        self.project = nn.Conv2d(self.source_dim, feature_dim, kernel_size=1, bias=False)

    @property
    @abstractmethod
    def source_dim(self) -> int:
        """Channels of what is projected."""

    @abstractmethod
    def source(self, hidden_BEHW: Tensor, latent: Latent) -> Tensor:
        """What is projected."""

    @torch.no_grad()
    def target(self, feature_BFHW: Tensor) -> Tensor:
        """The teacher's features at RMS 1 over channels, float32."""
        return rms_normalize(feature_BFHW.float(), dim=1)

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        """`align`, or `align_cosine` and `align_distance` for vf; the projection is in float32 too."""
        source = self.source(hidden_BEHW, latent)
        with torch.autocast(device_type=source.device.type, enabled=False):
            values = self._distances(self.project(source.float()), target)
        return {name: Loss(value, self.config.weight, self.adaptive) for name, value in values.items()}

    def _distances(self, projected: Tensor, target: Tensor) -> dict[str, Tensor]:
        config = self.config
        if config.loss == "vf":
            return {
                "align_cosine": marginal_cosine(projected, target, config.cosine_margin),
                "align_distance": marginal_distances(projected, target, config.distance_margin),
            }
        if config.loss == "mse":
            projected = rms_normalize(projected, dim=1)
        return {"align": distance(projected, target, config.loss)}


class PreAligner(FeatureAligner):
    """Aligns the encoder's wide features, before the projection to the latent, with the teacher's."""

    name = "pre"
    revision = 2
    Config = FeatureConfig

    @property
    def source_dim(self) -> int:
        """E."""
        return self.hidden_dim

    def source(self, hidden_BEHW: Tensor, latent: Latent) -> Tensor:
        """The encoder's features."""
        return hidden_BEHW


class PostAligner(FeatureAligner):
    """Projects the latent's mean up to the teacher's width and aligns there, VA-VAE's way (arXiv 2501.01423)."""

    name = "post"
    revision = 2
    Config = PostConfig

    config: PostConfig

    def __init__(self, config: Any, *, feature_dim: int, latent_dim: int, hidden_dim: int, grid: int):
        super().__init__(config, feature_dim=feature_dim, latent_dim=latent_dim, hidden_dim=hidden_dim, grid=grid)
        self.adaptive = config.adaptive

    @classmethod
    def depends_on_batch(cls, config: PostConfig) -> bool:
        """With `adaptive`: the gradients are compared in each pass."""
        return config.adaptive

    @property
    def source_dim(self) -> int:
        """D."""
        return self.latent_dim

    def source(self, hidden_BEHW: Tensor, latent: Latent) -> Tensor:
        """The latent's mean."""
        return latent.mean_BDHW
