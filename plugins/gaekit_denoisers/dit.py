"""DiT (arXiv 2212.09748): the plain diffusion transformer, trained to predict the noise of DDPM's integer steps."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from gaekit.api import ComponentConfig, Prediction
from gaekit.api.flow import step_of
from gaekit.api.nn import MLP
from gaekit_denoisers.transformer import SIZES, Blueprint, TransformerDenoiser


class PlainConfig(ComponentConfig):
    """Settings of a stack of DiT's blocks."""

    size: Literal["S", "B", "L", "XL"] = Field(
        default="B", description="depth, width and heads: S 12, 384, 6; B 12, 768, 12; L 24, 1024, 16; XL 28, 1152, 16"
    )
    depth: PositiveInt | None = Field(default=None, description="transformer blocks; null is the size's")
    width: PositiveInt | None = Field(default=None, description="channels of a token; null is the size's")
    heads: PositiveInt | None = Field(
        default=None, description="attention heads, must divide width; null is the size's"
    )
    patch: PositiveInt = Field(
        default=2, description="latent positions along the side of a token, must divide the grid"
    )
    mlp_ratio: PositiveFloat = Field(default=4.0, description="hidden width of the MLP over width")


class DiTConfig(PlainConfig):
    """Settings of DiT; the defaults are those of the published models."""

    learn_sigma: bool = Field(default=True, description="predict the variance of DDPM's transitions too")


class DiT(TransformerDenoiser):
    """Diffusion transformer that predicts the noise, and the variance, at one of DDPM's 1000 steps.

    Time in [0, 1] is taken as the step it falls in (`gaekit.flow.ddpm`), which counts from the data: t = 1 is step 0.
    """

    name = "dit"
    Config = DiTConfig
    predicts = "noise"
    learned_variance = True

    def __init__(self, config: DiTConfig, *, channels: int, grid: int, classes: int):
        blueprint = plain_blueprint(config, channels * 2 if config.learn_sigma else channels)
        super().__init__(config, blueprint, channels=channels, grid=grid, classes=classes)
        self.learned_variance = config.learn_sigma

    def _time(self, t_B: Tensor) -> Tensor:
        return step_of(t_B)

    def _prediction(self, out: Tensor, features: dict[str, Tensor]) -> Prediction:
        if not self.learned_variance:
            return Prediction(out, features=features)
        noise, variance = out.chunk(2, dim=1)
        return Prediction(noise, variance, features)


def plain_blueprint(config: PlainConfig, out_channels: int) -> Blueprint:
    """DiT's stack: LayerNorm without learned scale, MLP with GELU, fixed sin-cos positions, no rotary ones."""
    depth, width, heads = SIZES[config.size]
    width = config.width or width
    return Blueprint(
        depth=config.depth or depth,
        width=width,
        heads=config.heads or heads,
        patch=config.patch,
        out_channels=out_channels,
        norm=partial(nn.LayerNorm, elementwise_affine=False, eps=1e-6),
        mlp=partial(MLP, hidden=int(width * config.mlp_ratio)),
    )
