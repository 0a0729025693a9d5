"""LightningDiT (arXiv 2501.01423): DiT with RMSNorm, SwiGLU and rotary positions, trained on velocity."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from gaekit.api import ComponentConfig
from gaekit.api.nn import MLP, LayerFactory, RMSNorm, SwiGLU
from gaekit_denoisers.transformer import SIZES, Blueprint, TransformerDenoiser


class LightningDiTConfig(ComponentConfig):
    """Settings of LightningDiT; the defaults are those of the published models."""

    size: Literal["S", "B", "L", "XL", "1.0B", "1.6B"] = Field(
        default="B",
        description="depth, width and heads: S 12, 384, 6; B 12, 768, 12; L 24, 1024, 16; XL 28, 1152, 16; "
        "1.0B 24, 1536, 24; 1.6B 28, 1792, 28",
    )
    depth: PositiveInt | None = Field(default=None, description="transformer blocks; null is the size's")
    width: PositiveInt | None = Field(default=None, description="channels of a token; null is the size's")
    heads: PositiveInt | None = Field(
        default=None, description="attention heads, must divide width; null is the size's"
    )
    patch: PositiveInt = Field(
        default=1, description="latent positions along the side of a token, must divide the grid"
    )
    mlp: Literal["swiglu", "mlp"] = Field(default="swiglu", description="gated MLP, or a plain one with GELU")
    mlp_ratio: PositiveFloat = Field(
        default=4.0, description="hidden width of a plain MLP over width; gated: 2/3 of it"
    )
    norm: Literal["rms", "layer"] = Field(
        default="rms", description="RMSNorm with a learned scale, or LayerNorm without"
    )
    qk_norm: bool = Field(
        default=False, description="normalise queries and keys, with learned scales; steadies long trainings"
    )
    rope: bool = Field(default=True, description="rotary positions")
    absolute_positions: bool = Field(default=True, description="fixed sin-cos positions added to the tokens")
    wo_shift: bool = Field(default=False, description="modulate by scale and gate alone, without shifts")


class LightningDiT(TransformerDenoiser):
    """Diffusion transformer with RMSNorm, SwiGLU and rotary positions that predicts the velocity."""

    name = "lightning_dit"
    Config = LightningDiTConfig

    def __init__(self, config: LightningDiTConfig, *, channels: int, grid: int, classes: int):
        super().__init__(config, lightning_blueprint(config, channels), channels=channels, grid=grid, classes=classes)


def lightning_blueprint(config: LightningDiTConfig, channels: int) -> Blueprint:
    """The stack of blocks that the settings describe."""
    depth, width, heads = SIZES[config.size]
    width = config.width or width
    return Blueprint(
        depth=config.depth or depth,
        width=width,
        heads=config.heads or heads,
        patch=config.patch,
        out_channels=channels,
        norm=RMSNorm if config.norm == "rms" else partial(nn.LayerNorm, elementwise_affine=False, eps=1e-6),
        mlp=lightning_mlp(config, width),
        qk_norm=_qk_norm(config) if config.qk_norm else None,
        rope=config.rope,
        shift=not config.wo_shift,
        absolute_positions=config.absolute_positions,
    )


def lightning_mlp(config: LightningDiTConfig, width: int) -> LayerFactory:
    """The MLP of a block of this width."""
    hidden = int(width * config.mlp_ratio)
    if config.mlp == "mlp":
        return partial(MLP, hidden=hidden)
    return partial(SwiGLU, hidden=int(2 / 3 * hidden))


def _qk_norm(config: LightningDiTConfig) -> LayerFactory:
    return RMSNorm if config.norm == "rms" else nn.LayerNorm
