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
from torch.nn import functional as F

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
HALF = 2
"""Pixels of a side for each position of the decoder's convolutions."""


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
        "null: as torch draws any such layer, as published",
    )
    conv_width: PositiveInt | None = Field(
        default=None,
        json_schema_extra={"neutral": None},
        description="channels of the 3 x 3 convolutions, over half the image's side, that make the pixels, so that "
        "neighbouring patches join without a seam; null: a linear layer makes each patch by itself, as published",
    )
    conv_blocks: PositiveInt = Field(
        default=1,
        json_schema_extra={"neutral": 1},
        description="residual blocks of two such convolutions, where there are some",
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


class _ResidualConvolutions(nn.Module):
    """Two 3 x 3 convolutions without a norm, added to their input (EDSR, arXiv 1707.02921); at first they add none."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x_BCHW + self.conv2(F.silu(self.conv1(x_BCHW)))  # type: ignore[no-any-return]


class _ConvHead(nn.Module):
    """Tokens to pixels: a linear layer to `conv_width` channels at half the image's side, residual convolutions across
    the borders of patches, and one that makes the 2 x 2 pixels of each position (arXiv 1609.05158)."""

    def __init__(self, config: ViTDecoderConfig, *, grid: int, stride: int):
        super().__init__()
        if stride % HALF:
            raise GaekitError(
                f"autoencoder.decoder.conv_width: image.stride = {stride} is odd, and convolutions over half the "
                "image's side need an even one"
            )
        channels = config.conv_width
        assert channels is not None
        self.grid, self.patch = grid, stride // HALF
        self.linear = nn.Linear(config.shape[1], self.patch**2 * channels, bias=config.bias)
        self.blocks = nn.Sequential(*(_ResidualConvolutions(channels) for _ in range(config.conv_blocks)))
        self.conv_out = nn.Conv2d(channels, 3 * HALF**2, 3, padding=1)

    def forward(self, tokens_BNW: Tensor) -> Tensor:
        """-> image_B3RR."""
        x_BCHW = self.blocks(unpatchify(self.linear(tokens_BNW), patch=self.patch, grid=self.grid))
        return F.pixel_shuffle(self.conv_out(x_BCHW), HALF)


class ViTDecoder(Decoder):
    """Vision transformer over latent positions, then a linear projection to each one's patch of pixels, or
    convolutions across the patches."""

    name = "vit"
    revision = 2  # starts as published
    Config = ViTDecoderConfig

    def __init__(self, config: ViTDecoderConfig, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid, stride=stride)
        width = config.shape[1]
        self.z_proj = nn.Linear(latent_dim, width, bias=config.bias)
        self.trunk = _Trunk(config, grid)
        self.linear_out: nn.Linear | None = None
        self.head: _ConvHead | None = None
        if config.conv_width is None:
            self.linear_out = nn.Linear(width, stride * stride * 3, bias=config.bias)
        else:
            self.head = _ConvHead(config, grid=grid, stride=stride)
        if config.init_std is not None:
            nn.init.normal_(self.last_layer, std=config.init_std)

    def forward(self, latent_BDHW: Tensor) -> Tensor:
        """-> image_B3RR, float32, not clamped."""
        tokens = self.trunk(self.z_proj(to_tokens(latent_BDHW)))
        if self.head is not None:
            return self.head(tokens).float()  # type: ignore[no-any-return]
        assert self.linear_out is not None
        return unpatchify(self.linear_out(tokens), patch=self.stride, grid=self.grid).float()

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the projection, or of the last convolution, that makes the pixels."""
        last = self.linear_out if self.head is None else self.head.conv_out
        assert last is not None
        return last.get_parameter("weight")
