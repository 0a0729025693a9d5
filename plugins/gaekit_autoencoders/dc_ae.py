"""The deep compression autoencoder DC-AE (arXiv 2410.10733), as SANA uses it: strides of 32 and 64.

Shape suffixes: B batch, R image side, H W latent grid, E encoder width, M moments, D latent width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from gaekit.api import ComponentConfig, Decoder, Encoder, GaekitError
from gaekit.api.nn import run_block
from gaekit_autoencoders.efficientvit import (
    ACTIVATIONS,
    Activation,
    ChannelRMSNorm,
    ConvResidual,
    Double,
    EfficientViTBlock,
    Halve,
    KeptBatchNorm,
    average_channels,
    repeat_channels,
)

Levels = tuple[NonNegativeInt, ...]


class DcAeConfig(ComponentConfig):
    """Settings that encoder and decoder share; those of SANA's autoencoder at stride 32 by default.

    Levels are counted from the image's resolution down, from 0.
    """

    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = Field(
        default=(128, 256, 512, 512, 1024, 1024), description="channels of each level; n levels have stride 2^(n-1)"
    )
    depths: Levels = Field(
        default=(2, 2, 2, 3, 3, 3),
        description="blocks of each level; 0 at the first: the image's resolution is left at once",
    )
    attention: Levels = Field(default=(3, 4, 5), description="levels of linear attention; the others have convolutions")
    scales: tuple[PositiveInt, ...] = Field(
        default=(5,), description="sides of the neighbourhoods, odd, that attention also has heads for"
    )
    head_dim: PositiveInt = Field(default=32, description="channels of an attention head")
    shortcut: bool = Field(
        default=True, description="beside the convolution to or from the latent, channels averaged or repeated"
    )


class DcAeEncoderConfig(DcAeConfig):
    """Settings of the encoder."""

    downsample: Literal["conv", "unshuffle"] = Field(
        default="conv", description="by a convolution of stride 2, or by one whose blocks of 2 x 2 become channels"
    )


class DcAeDecoderConfig(DcAeConfig):
    """Settings of the decoder."""

    depths: Levels = Field(
        default=(3, 3, 3, 3, 3, 3),
        description="blocks of each level; 0 at the first: the image's resolution is made by the last layer",
    )
    upsample: Literal["interpolate", "shuffle"] = Field(
        default="interpolate", description="by repeated positions, or by channels that become blocks of 2 x 2"
    )
    batch_norm: Levels = Field(
        default=(), description="levels with batch norms of statistics as they are loaded; the others have RMS norms"
    )
    relu: Levels = Field(default=(), description="levels whose convolutions have ReLU; the others have SiLU")
    out_activation: Activation = Field(default="relu", description="before the last convolution")


class DcAeEncoder(Encoder):
    """Residual convolutions, further down linear attention, that halve the image's side between levels.

    `checkpointing` recomputes each block in the backward pass.
    """

    name = "dc_ae"
    Config = DcAeEncoderConfig
    checkpointing: bool = False

    def __init__(self, config: DcAeEncoderConfig, *, image_size: int, stride: int, channels: int):
        super().__init__(config, image_size=image_size, stride=stride, channels=channels)
        _check(config, "encoder", stride, channels)
        if image_size % stride:
            raise GaekitError(f"image.stride: {stride} does not divide image.size = {image_size}")
        widths, unshuffle = config.widths, config.downsample == "unshuffle"
        self.hidden_dim = widths[-1]
        self.conv_in = (
            nn.Conv2d(3, widths[0], 3, padding=1)
            if config.depths[0]
            else Halve(3, widths[1], unshuffle=unshuffle, shortcut=False)
        )
        self.levels = nn.ModuleList()
        for level, depth in enumerate(config.depths):
            blocks = nn.Sequential(*(_block(config, level, ChannelRMSNorm, "silu") for _ in range(depth)))
            if depth and level < len(widths) - 1:
                blocks.append(Halve(widths[level], widths[level + 1], unshuffle=unshuffle))
            self.levels.append(blocks)
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        """-> (hidden_BEHW: what the last convolution reads, moments_BMHW), float32."""
        hidden = _through(self.conv_in(image_B3RR), self.levels, self.checkpointing)
        moments = self.conv_out(hidden)
        if self.config.shortcut:
            moments = moments + average_channels(hidden, self.channels)
        return hidden.float(), moments.float()

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution."""
        return self.conv_out.get_parameter("weight")


class DcAeDecoder(Decoder):
    """Linear attention, further up residual convolutions, that double the side between levels.

    `checkpointing` recomputes each block in the backward pass.
    """

    name = "dc_ae"
    Config = DcAeDecoderConfig
    checkpointing: bool = False

    def __init__(self, config: DcAeDecoderConfig, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid, stride=stride)
        _check(config, "decoder", stride, latent_dim)
        widths, interpolate = config.widths, config.upsample == "interpolate"
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 3, padding=1)
        # Listed from the image's resolution down, as published weights count them; each begins by doubling the side.
        self.levels = nn.ModuleList()
        for level, depth in enumerate(config.depths):
            norm = KeptBatchNorm if level in config.batch_norm else ChannelRMSNorm
            activation: Activation = "relu" if level in config.relu else "silu"
            blocks = [_block(config, level, norm, activation) for _ in range(depth)]
            if depth and level < len(widths) - 1:
                blocks.insert(0, Double(widths[level + 1], widths[level], interpolate=interpolate))
            self.levels.append(nn.Sequential(*blocks))
        last = widths[0] if config.depths[0] else widths[1]
        self.norm_out = ChannelRMSNorm(last)
        self.conv_out = (
            nn.Conv2d(last, 3, 3, padding=1)
            if config.depths[0]
            else Double(last, 3, interpolate=interpolate, shortcut=False)
        )

    def forward(self, latent_BDHW: Tensor) -> Tensor:
        """-> image_B3RR, float32, not clamped."""
        x = self.conv_in(latent_BDHW)
        if self.config.shortcut:
            x = x + repeat_channels(latent_BDHW, self.config.widths[-1])
        x = _through(x, reversed(self.levels), self.checkpointing)
        x = ACTIVATIONS[self.config.out_activation](self.norm_out(x))
        return self.conv_out(x).float()  # type: ignore[no-any-return]

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution."""
        return (self.conv_out if self.config.depths[0] else self.conv_out.get_submodule("conv")).get_parameter("weight")


def _through(x: Tensor, levels: Iterable[nn.Module], checkpointing: bool) -> Tensor:
    for level in levels:
        for block in level.children():
            x = run_block(block, x, checkpointing=checkpointing)
    return x


def _block(config: DcAeConfig, level: int, norm: Callable[[int], nn.Module], activation: Activation) -> nn.Module:
    width = config.widths[level]
    if level in config.attention:
        return EfficientViTBlock(width, head_dim=config.head_dim, scales=config.scales, norm=norm(width))
    return ConvResidual(width, norm=norm(width), activation=activation)


def _check(config: DcAeConfig, half: str, stride: int, channels: int) -> None:
    """Raises GaekitError for settings that make no network of this stride and these channels of moments or latent."""
    where, widths, depths = f"autoencoder.{half}", config.widths, config.depths
    if len(depths) != len(widths):
        raise GaekitError(f"{where}.depths: {len(depths)} levels, {where}.widths has {len(widths)}")
    if stride != 2 ** (len(widths) - 1):
        raise GaekitError(
            f"{where}.widths: {len(widths)} levels have stride {2 ** (len(widths) - 1)}, image.stride is {stride}; "
            "n levels have stride 2^(n-1)"
        )
    if not all(depths[1:-1]):
        raise GaekitError(f"{where}.depths: the first level and the last may have no block, those between need one")
    for name in ("attention", "batch_norm", "relu"):
        if beyond := [level for level in getattr(config, name, ()) if level >= len(widths)]:
            raise GaekitError(f"{where}.{name}: no level {beyond[0]}; they are counted from 0 to {len(widths) - 1}")
    if even := [side for side in config.scales if side % 2 == 0]:
        raise GaekitError(f"{where}.scales: a neighbourhood of {even[0]} has no middle; an odd side has one")
    if narrow := [level for level in config.attention if widths[level] < config.head_dim]:
        raise GaekitError(
            f"{where}.head_dim: {config.head_dim} is more than level {narrow[0]} has channels, {widths[narrow[0]]}"
        )
    if config.shortcut and widths[-1] % channels:
        raise GaekitError(
            f"{where}.widths: {widths[-1]} channels cannot be averaged to {channels} of the latent, nor repeated "
            f"from them; a multiple of {channels} can, or `shortcut: false`"
        )
    first = 0 if depths[0] else 1
    of_blocks = widths[1:] if getattr(config, "downsample", "conv") == "unshuffle" else ()
    if odd := [width for width in of_blocks if width % 4]:
        raise GaekitError(f"{where}.widths: {odd[0]} channels are no blocks of 2 x 2 positions; a multiple of 4 is")
    for above, below in pairwise(widths[first:]):
        if 4 * above % below:
            raise GaekitError(
                f"{where}.widths: blocks of 2 x 2 positions of {above} channels cannot be averaged to {below}; "
                f"a divisor of {4 * above} can"
            )
