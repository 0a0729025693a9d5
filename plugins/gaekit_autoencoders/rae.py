"""The representation autoencoder RAE (arXiv 2510.11690): a pretrained vision transformer as encoder, whose weights are
in the artifact, and the decoder of a masked autoencoder (arXiv 2111.06377).

`frozen_teacher` encodes by a teacher that the recipe names; here the encoder is part of what is loaded.

Shape suffixes: B batch, N tokens, W width; R image side, H W latent grid, D latent width.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from gaekit.api import ComponentConfig, Decoder, Encoder, GaekitError
from gaekit.api.nn import MLP, PatchEmbed, TransformerBlock, run_block, sincos_positions, to_grid, to_tokens, unpatchify
from gaekit_autoencoders.rescale import Rescale

Colour = tuple[float, float, float]
Spread = tuple[PositiveFloat, PositiveFloat, PositiveFloat]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class RaeConfig(ComponentConfig):
    """Settings that encoder and decoder share."""

    mean: Colour = Field(
        default=IMAGENET_MEAN, description="of red, green and blue in [0, 1], by which the encoder standardises pixels"
    )
    std: Spread = Field(default=IMAGENET_STD, description="their spread")


class RaeEncoderConfig(RaeConfig):
    """Settings of the encoder; those of DINOv2-B with registers by default."""

    depth: PositiveInt = Field(default=12, description="transformer blocks")
    width: PositiveInt = Field(default=768, description="channels of a token, and of the latent")
    heads: PositiveInt = Field(default=12, description="attention heads, must divide width")
    hidden: PositiveInt = Field(default=3072, description="hidden width of the MLPs")
    patch: PositiveInt = Field(
        default=14, description="side of its patches; images are resized to as many as the latent's grid has"
    )
    prefix: NonNegativeInt = Field(default=5, description="tokens before the patches: a class's, registers")
    gelu: Literal["exact", "tanh"] = Field(default="exact", description="GELU, or its approximation (SigLIP)")
    eps: PositiveFloat = Field(default=1e-6, description="of its norms")
    frozen: bool = Field(default=True, description="whether its weights stay as they are while the decoder is trained")


class RaeDecoderConfig(RaeConfig):
    """Settings of the decoder; those of RAE's ViT-XL by default."""

    depth: PositiveInt = Field(default=28, description="transformer blocks")
    width: PositiveInt = Field(default=1152, description="channels of a token, a multiple of 4")
    heads: PositiveInt = Field(default=16, description="attention heads, must divide width")
    hidden: PositiveInt = Field(default=4096, description="hidden width of the MLPs")
    restore: Literal["none", "channel", "position"] = Field(
        default="none",
        description="begin by scaling and shifting each channel of the latent, or each at each position, to undo what "
        "a regularizer has standardised; imports of published autoencoders set it",
    )


class RaeEncoder(Encoder):
    """Patch tokens of a vision transformer after its last norm, which has neither scale nor shift.

    `checkpointing` recomputes each block in the backward pass.
    """

    name = "rae"
    Config = RaeEncoderConfig
    checkpointing: bool = False
    mean: Tensor
    std: Tensor

    def __init__(self, config: RaeEncoderConfig, *, image_size: int, stride: int, channels: int):
        super().__init__(config, image_size=image_size, stride=stride, channels=channels)
        if image_size % stride:
            raise GaekitError(f"image.stride: {stride} does not divide image.size = {image_size}")
        if channels != config.width:
            raise GaekitError(
                f"autoencoder.encoder.width: {config.width} channels are those of the moments, and the regularizer "
                f"wants {channels}; set `latent_dim: {config.width}` and a regularizer of one moment a channel, "
                "such as standardize"
            )
        self.grid = image_size // stride
        self.hidden_dim = config.width
        self.patch_embed = PatchEmbed(3, config.width, config.patch)
        self.prefix = nn.Parameter(torch.empty(1, config.prefix, config.width))
        self.positions = nn.Parameter(torch.empty(1, self.grid**2, config.width))
        self.blocks = _blocks(config, tokens=config.prefix + self.grid**2, eps=config.eps, approximate=config.gelu)
        for tokens in (self.prefix, self.positions):
            nn.init.normal_(tokens, std=0.02)
        _register_colours(self, config)
        self.requires_grad_(not config.frozen)

    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        """-> (hidden_BWHW, moments_BWHW), both the patch tokens, float32."""
        pixels, side = image_B3RR.float() / 2 + 0.5, self.grid * self.config.patch
        if pixels.shape[-1] != side:  # by OpenCV's kernel (a = -0.75) without antialiasing, as RAE does
            pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False)
        x_BNW = self.patch_embed((pixels - self.mean) / self.std) + self.positions
        x_BNW = torch.cat([self.prefix.expand(len(x_BNW), -1, -1).type_as(x_BNW), x_BNW], dim=1)
        for block in self.blocks:
            x_BNW = run_block(block, x_BNW, checkpointing=self.checkpointing)
        kept = x_BNW[:, self.config.prefix :].float()
        feature = to_grid(F.layer_norm(kept, kept.shape[-1:], eps=self.config.eps), self.grid)
        return feature, feature

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last block's last projection. Raises GaekitError where it is frozen."""
        if self.config.frozen:
            raise GaekitError(
                "autoencoder.encoder: a frozen 'rae' trains no layer, so no weight can be adapted to its gradient; "
                "set a constant weight for the alignment, `aligner: {use: none}`, or `frozen: false`"
            )
        return self.blocks[-1].get_parameter("mlp.fc2.weight")


class RaeDecoder(Decoder):
    """Vision transformer over latent positions and a class token, then a linear projection to each one's patch.

    `checkpointing` recomputes each block in the backward pass.
    """

    name = "rae"
    Config = RaeDecoderConfig
    checkpointing: bool = False
    mean: Tensor
    std: Tensor

    def __init__(self, config: RaeDecoderConfig, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid, stride=stride)
        side = grid if config.restore == "position" else 1
        self.restore = nn.Identity() if config.restore == "none" else Rescale(latent_dim, side)
        self.embed = nn.Linear(latent_dim, config.width)
        self.prefix = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(sincos_positions(config.width, grid), requires_grad=False)
        self.blocks = _blocks(config, tokens=1 + grid**2, eps=1e-12, approximate="exact")
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.linear_out = nn.Linear(config.width, 3 * stride**2)
        _register_colours(self, config)

    def forward(self, latent_BDHW: Tensor) -> Tensor:
        """-> image_B3RR, float32, not clamped."""
        x_BNW = self.embed(to_tokens(self.restore(latent_BDHW))) + self.positions
        x_BNW = torch.cat([self.prefix.expand(len(x_BNW), -1, -1).type_as(x_BNW), x_BNW], dim=1)
        for block in self.blocks:
            x_BNW = run_block(block, x_BNW, checkpointing=self.checkpointing)
        patches = self.linear_out(self.norm(x_BNW[:, 1:])).float()
        pixels = unpatchify(patches, patch=self.stride, grid=self.grid) * self.std + self.mean
        return 2 * pixels - 1

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the projection to pixels."""
        return self.linear_out.get_parameter("weight")


def _blocks(
    config: RaeEncoderConfig | RaeDecoderConfig, *, tokens: int, eps: float, approximate: Literal["exact", "tanh"]
) -> nn.ModuleList:
    return nn.ModuleList(
        TransformerBlock(
            config.width,
            config.heads,
            tokens=tokens,
            norm=partial(nn.LayerNorm, eps=eps),
            mlp=partial(MLP, hidden=config.hidden, gelu=approximate),
        )
        for _ in range(config.depth)
    )


def _register_colours(module: nn.Module, config: RaeConfig) -> None:
    """Buffers `mean` and `std` (3, 1, 1), out of the settings and not among the weights."""
    for name in ("mean", "std"):
        module.register_buffer(name, torch.tensor(getattr(config, name))[:, None, None], persistent=False)
