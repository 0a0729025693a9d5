"""Vision-transformer encoder and decoder: the tokenizer of GAE (arXiv 2603.10365).

They start as the published code does: linear layers as torch draws them, the patch embedding Kaiming-normal over its
fan-out, positions normal. Patches are then faint beside their positions (token RMS 0.027 at width 1024).

Shape suffixes: B batch, N tokens, W width; R image side, H W latent grid, E encoder width, M moments, D latent width.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from gaekit.api import ComponentConfig, Decoder, Encoder, GaekitError
from gaekit.api.nn import (
    MLP,
    LayerFactory,
    PatchEmbed,
    RMSNorm,
    RotaryPositions,
    SwiGLU,
    TransformerBlock,
    gated_width,
    run_block,
    to_grid,
    to_tokens,
    unpatchify,
)

SIZES = {"small": (12, 384, 6), "base": (12, 768, 12), "large": (24, 1024, 16)}
"""Depth, width and heads by name."""


class ViTConfig(ComponentConfig):
    """Settings that encoder and decoder share."""

    size: Literal["small", "base", "large"] = Field(
        default="base", description="depth, width and heads: small 12, 384, 6; base 12, 768, 12; large 24, 1024, 16"
    )
    depth: PositiveInt | None = Field(default=None, description="transformer blocks; null is the size's")
    width: PositiveInt | None = Field(default=None, description="channels of a token; null is the size's")
    heads: PositiveInt | None = Field(
        default=None, description="attention heads, must divide width; null is the size's"
    )
    mlp: Literal["swiglu", "gelu"] = Field(default="swiglu", description="gated or plain MLP")
    mlp_ratio: PositiveFloat = Field(
        default=4.0, description="hidden width of a plain MLP over width; gated: 2/3 of it"
    )
    mlp_multiple: PositiveInt = Field(
        default=256, description="a gated MLP's hidden width is rounded up to a multiple of it"
    )
    norm: Literal["rms", "layer"] = Field(default="rms", description="normalisation of tokens; neither has parameters")
    qk_norm: bool = Field(default=True, description="RMS-normalise queries and keys")
    rope: bool = Field(default=False, description="rotary positions besides the learned ones")
    bias: bool = Field(default=False, description="offsets in the linear layers")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Depth, width and heads: what is set explicitly, else the size's."""
        depth, width, heads = SIZES[self.size]
        return self.depth or depth, self.width or width, self.heads or heads


class ViTEncoderConfig(ViTConfig):
    """Settings of the encoder."""

    hidden: PositiveInt | None = Field(
        default=None, description="E, channels before the last projection; null is the width"
    )


class ViTDecoderConfig(ViTConfig):
    """Settings of the decoder."""

    init_std: NonNegativeFloat | None = Field(
        default=None,
        description="standard deviation of the initial weights that make the pixels, small: near grey; "
        "null: as torch draws any linear layer, as published",
    )


def _norm(config: ViTConfig) -> LayerFactory:
    return partial(RMSNorm, affine=False) if config.norm == "rms" else partial(nn.LayerNorm, elementwise_affine=False)


def _mlp(config: ViTConfig, width: int) -> LayerFactory:
    if config.mlp == "gelu":
        return partial(MLP, hidden=int(width * config.mlp_ratio), bias=config.bias)
    hidden = gated_width(width, config.mlp_ratio, multiple=config.mlp_multiple)
    return partial(SwiGLU, hidden=hidden, bias=config.bias)


class _Trunk(nn.Module):
    """Learned positions and the blocks over a `grid`, which encoder and decoder have in common.

    `checkpointing` recomputes each block in the backward pass.
    """

    checkpointing: bool = False

    def __init__(self, config: ViTConfig, grid: int):
        super().__init__()
        depth, width, heads = config.shape
        self.pos_embed = nn.Parameter(torch.empty(1, grid * grid, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                width,
                heads,
                tokens=grid * grid,
                norm=_norm(config),
                mlp=_mlp(config, width),
                qk_norm=partial(RMSNorm, affine=False) if config.qk_norm else None,
                bias=config.bias,
            )
            for _ in range(depth)
        )
        self.rope = RotaryPositions(width // heads, grid) if config.rope else None
        self.norm = _norm(config)(width)
        nn.init.normal_(self.pos_embed, std=0.02)  # published: truncated at -2 and 2, a hundred deviations away

    def forward(self, x_BNW: Tensor) -> Tensor:
        """(B, N, W) -> (B, N, W), normalised."""
        x_BNW = x_BNW + self.pos_embed
        for block in self.blocks:
            x_BNW = run_block(block, x_BNW, self.rope, checkpointing=self.checkpointing)
        return self.norm(x_BNW)  # type: ignore[no-any-return]

    def regions(self) -> Iterable[nn.Module]:
        """The blocks: compiled one by one."""
        return self.blocks


class ViTEncoder(Encoder):
    """Vision transformer over patches, then two linear projections to the latent's moments."""

    name = "vit"
    revision = 2  # starts as published
    Config = ViTEncoderConfig

    def __init__(self, config: ViTEncoderConfig, *, image_size: int, stride: int, channels: int):
        super().__init__(config, image_size=image_size, stride=stride, channels=channels)
        if image_size % stride:
            raise GaekitError(
                f"image.stride: {stride} does not divide image.size = {image_size}; patches must fill the image"
            )
        width = config.shape[1]
        self.grid = image_size // stride
        self.hidden_dim = config.hidden or width
        self.patch_embed = PatchEmbed(3, width, stride, bias=config.bias)
        self.trunk = _Trunk(config, self.grid)
        self.proj_out = nn.Linear(width, self.hidden_dim, bias=config.bias)
        self.adapter = nn.Linear(self.hidden_dim, channels, bias=config.bias)
        nn.init.kaiming_normal_(self.patch_embed.proj.weight, mode="fan_out", nonlinearity="relu")
        if self.patch_embed.proj.bias is not None:
            nn.init.zeros_(self.patch_embed.proj.bias)

    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        """-> (hidden_BEHW, moments_BMHW), float32."""
        hidden = self.proj_out(self.trunk(self.patch_embed(image_B3RR)))
        return to_grid(hidden, self.grid).float(), to_grid(self.adapter(hidden), self.grid).float()

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the projection to moments."""
        return self.adapter.get_parameter("weight")


class ViTDecoder(Decoder):
    """Vision transformer over latent positions, then a linear projection to each one's patch of pixels."""

    name = "vit"
    revision = 2  # starts as published
    Config = ViTDecoderConfig

    def __init__(self, config: ViTDecoderConfig, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid, stride=stride)
        width = config.shape[1]
        self.z_proj = nn.Linear(latent_dim, width, bias=config.bias)
        self.trunk = _Trunk(config, grid)
        self.linear_out = nn.Linear(width, stride * stride * 3, bias=config.bias)
        if config.init_std is not None:
            nn.init.normal_(self.linear_out.weight, std=config.init_std)

    def forward(self, latent_BDHW: Tensor) -> Tensor:
        """-> image_B3RR, float32, not clamped."""
        pixels = self.linear_out(self.trunk(self.z_proj(to_tokens(latent_BDHW))))
        return unpatchify(pixels, patch=self.stride, grid=self.grid).float()

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the projection to pixels."""
        return self.linear_out.get_parameter("weight")
