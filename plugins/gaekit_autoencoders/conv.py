"""Convolutional encoder and decoder of latent diffusion (arXiv 2112.10752), as SD-VAE, VA-VAE and FLUX.2 use them.

Shape suffixes: B batch, R image side, H W latent grid, E encoder width, M moments, D latent width.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.api import ComponentConfig, Decoder, Encoder, GaekitError
from gaekit.api.nn import Downsample, ResNetLevel, Upsample, group_norm, middle_blocks, run_block
from gaekit_autoencoders.rescale import Rescale


class ConvConfig(ComponentConfig):
    """Settings that encoder and decoder share; those of Stable Diffusion's autoencoder by default."""

    ch: PositiveInt = Field(default=128, description="channels of a level with multiplier 1")
    ch_mult: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        default=(1, 2, 4, 4),
        description="multiplier of ch at each level, from the image's resolution down; n levels have stride 2^(n-1)",
    )
    patch: PositiveInt = Field(
        default=1,
        description="side of the blocks of positions below the last level that become the channels of one: the stride "
        "times this, the channels times its square (FLUX.2: 2)",
    )
    num_res_blocks: PositiveInt = Field(
        default=2, description="residual blocks at each level; the decoder has one more"
    )
    attn_resolutions: tuple[PositiveInt, ...] = Field(
        default=(), description="sides of the levels that have attention after each block; the middle has it always"
    )
    resolution: PositiveInt | None = Field(
        default=None, description="image side that attn_resolutions are meant for; null is this recipe's"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of hidden values dropped in residual blocks")
    quant_conv: bool = Field(default=True, description="a last 1 x 1 convolution of the encoder, the decoder's first")

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.ch * factor for factor in self.ch_mult]


class ConvEncoderConfig(ConvConfig):
    """Settings of the encoder."""

    conv_out_channels: PositiveInt | None = Field(
        default=None, description="channels between the last two convolutions; null: as many as the moments"
    )


class ConvDecoderConfig(ConvConfig):
    """Settings of the decoder."""

    conv_in_channels: PositiveInt | None = Field(
        default=None, description="channels between the first two convolutions; null: as many as the latent's"
    )
    restore: bool = Field(
        default=False,
        description="begin by scaling and shifting each channel of the latent, to undo what a regularizer has "
        "standardised; imports of published autoencoders set it",
    )


class ConvEncoder(Encoder):
    """Residual convolutions that halve the image's side between levels, down to the latent's moments.

    With `patch` p, hidden and moments of p x p positions are one position's channels, in the order (C, row, column).

    `checkpointing` recomputes each level in the backward pass.
    """

    name = "conv"
    Config = ConvEncoderConfig
    checkpointing: bool = False

    def __init__(self, config: ConvEncoderConfig, *, image_size: int, stride: int, channels: int):
        super().__init__(config, image_size=image_size, stride=stride, channels=channels)
        tokens = _attention_tokens(config, "encoder", image_size, stride)
        widths, levels = config.widths, len(config.ch_mult)
        self.hidden_dim = widths[-1] * config.patch**2
        moments = _of_one_position(channels, config, "encoder", "moments")
        between = _between(config.conv_out_channels, moments, config, "autoencoder.encoder.conv_out_channels")
        self.conv_in = nn.Conv2d(3, config.ch, 3, padding=1)
        self.levels = nn.ModuleList(
            ResNetLevel(
                [before, *[width] * config.num_res_blocks],
                tokens=tokens[level],
                dropout=config.dropout,
                resample=Downsample(width) if level < levels - 1 else None,
            )
            for level, (before, width) in enumerate(zip([config.ch, *widths[:-1]], widths, strict=True))
        )
        side = image_size // stride * config.patch
        self.mid = middle_blocks(widths[-1], tokens=side**2, dropout=config.dropout)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], between, 3, padding=1)
        self.quant_conv = nn.Conv2d(between, moments, 1) if config.quant_conv else nn.Identity()

    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        """-> (hidden_BEHW: what the last 3 x 3 convolution reads, moments_BMHW), float32."""
        x = self.conv_in(image_B3RR)
        for level in (*self.levels, self.mid):
            x = run_block(level, x, checkpointing=self.checkpointing)
        hidden = F.silu(self.norm_out(x))
        moments, patch = self.quant_conv(self.conv_out(hidden)), self.config.patch
        return F.pixel_unshuffle(hidden, patch).float(), F.pixel_unshuffle(moments, patch).float()

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last 3 x 3 convolution; the 1 x 1 one after it only mixes the moments."""
        return self.conv_out.get_parameter("weight")


class ConvDecoder(Decoder):
    """Residual convolutions that double the side between levels, from the latent up to the image.

    `checkpointing` recomputes each level in the backward pass.
    """

    name = "conv"
    Config = ConvDecoderConfig
    checkpointing: bool = False

    def __init__(self, config: ConvDecoderConfig, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid, stride=stride)
        tokens = _attention_tokens(config, "decoder", grid * stride, stride)
        widths = config.widths
        inner = _of_one_position(latent_dim, config, "decoder", "latent_dim")
        between = _between(config.conv_in_channels, inner, config, "autoencoder.decoder.conv_in_channels")
        self.restore = Rescale(latent_dim) if config.restore else nn.Identity()
        self.post_quant_conv = nn.Conv2d(inner, between, 1) if config.quant_conv else nn.Identity()
        self.conv_in = nn.Conv2d(between, widths[-1], 3, padding=1)
        self.mid = middle_blocks(widths[-1], tokens=(grid * config.patch) ** 2, dropout=config.dropout)
        # Listed from the image's resolution down, as the encoder's are and as published weights count them.
        self.levels = nn.ModuleList(
            ResNetLevel(
                [before, *[width] * (config.num_res_blocks + 1)],
                tokens=tokens[level],
                dropout=config.dropout,
                resample=Upsample(width) if level else None,
            )
            for level, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latent_BDHW: Tensor) -> Tensor:
        """-> image_B3RR, float32, not clamped."""
        x = F.pixel_shuffle(self.restore(latent_BDHW), self.config.patch)
        x = self.conv_in(self.post_quant_conv(x))
        for level in (self.mid, *reversed(self.levels)):
            x = run_block(level, x, checkpointing=self.checkpointing)
        return self.conv_out(F.silu(self.norm_out(x))).float()  # type: ignore[no-any-return]

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution."""
        return self.conv_out.get_parameter("weight")


def _attention_tokens(config: ConvConfig, half: str, image_size: int, stride: int) -> list[int | None]:
    """The number of positions of each level with attention, None for the others. Raises GaekitError."""
    where, levels = f"autoencoder.{half}", len(config.ch_mult)
    if stride != (given := 2 ** (levels - 1) * config.patch):
        of_patch = f" and patch {config.patch}" if config.patch > 1 else ""
        raise GaekitError(
            f"{where}.ch_mult: {levels} levels{of_patch} have stride {given}, image.stride is {stride}; "
            "n levels have stride 2^(n-1), times patch"
        )
    if image_size % stride:
        raise GaekitError(f"image.stride: {stride} does not divide image.size = {image_size}")
    meant = [(config.resolution or image_size) >> level for level in range(levels)]
    if unknown := [side for side in config.attn_resolutions if side not in meant]:
        raise GaekitError(
            f"{where}.attn_resolutions: no level has side {', '.join(map(str, unknown))}; "
            f"an image of {config.resolution or image_size} px has levels of {', '.join(map(str, meant))}"
        )
    return [(image_size >> level) ** 2 if side in config.attn_resolutions else None for level, side in enumerate(meant)]


def _of_one_position(channels: int, config: ConvConfig, half: str, what: str) -> int:
    """Channels of a position before patches are made of them. Raises GaekitError where a patch cannot share them."""
    if channels % config.patch**2:
        raise GaekitError(
            f"autoencoder.{half}.patch: {channels} {what} cannot fill {config.patch} x {config.patch} positions, "
            f"a multiple of {config.patch**2} can"
        )
    return channels // config.patch**2


def _between(given: int | None, default: int, config: ConvConfig, where: str) -> int:
    """Channels between the 3 x 3 and the 1 x 1 convolution. Raises GaekitError where there is no second."""
    if given is not None and not config.quant_conv and given != default:
        raise GaekitError(f"{where}: {given} needs `quant_conv: true` to become {default}; without it, leave it out")
    return given or default
