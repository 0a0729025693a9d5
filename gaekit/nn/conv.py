"""Blocks of convolutional autoencoders: residual blocks, attention over positions, down- and up-sampling.

They are those of latent diffusion's autoencoder (arXiv 2112.10752). Shape suffixes: B batch, C channels, H W grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.errors import GaekitError
from gaekit.nn.attention import Attention
from gaekit.nn.embed import to_tokens

GROUPS = 32
EPS = 1e-6


def group_norm(width: int) -> nn.GroupNorm:
    """Normalisation over 32 groups of channels (arXiv 1803.08494). Raises GaekitError unless 32 divides `width`."""
    if width % GROUPS:
        raise GaekitError(
            f"ch: a level of {width} channels cannot be normalised in {GROUPS} groups; ch times each of ch_mult "
            f"must be a multiple of {GROUPS}"
        )
    return nn.GroupNorm(GROUPS, width, eps=EPS)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after a norm and SiLU, beside a shortcut: (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, width: int, out: int, *, dropout: float = 0.0):
        super().__init__()
        self.norm1 = group_norm(width)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.norm2 = group_norm(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """-> (B, out, H, W)."""
        hidden = self.conv1(F.silu(self.norm1(x_BCHW)))
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden))))
        return self.shortcut(x_BCHW) + hidden  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Attention of one head among all positions, after a norm, added to its input.

    `tokens` is the number of positions, which backends of attention are probed at.
    """

    def __init__(self, width: int, *, tokens: int):
        super().__init__()
        self.norm = group_norm(width)
        self.attention = Attention(width, 1, tokens=tokens)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mixed_BNC = self.attention(to_tokens(self.norm(x_BCHW)))
        return x_BCHW + mixed_BNC.transpose(1, 2).reshape(x_BCHW.shape)  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Half the height and width, by a convolution of stride 2 padded at the right and at the bottom alone."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Twice the height and width: each value repeated, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class ResNetLevel(nn.Module):
    """The blocks at one resolution, each followed by attention where there is some, then a change of resolution.

    `widths` are the channels before the first block and after each. `tokens` are the positions of this level that
    attend to each other; None is no attention.
    """

    def __init__(self, widths: Sequence[int], *, tokens: int | None, dropout: float, resample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width, out, dropout=dropout) for width, out in pairwise(widths))
        self.attentions = nn.ModuleList(
            nn.Identity() if tokens is None else SpatialAttention(out, tokens=tokens) for out in widths[1:]
        )
        self.resample = resample or nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, widths[0], H, W) -> (B, widths[-1], H', W')."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x_BCHW = attention(block(x_BCHW))
        return self.resample(x_BCHW)  # type: ignore[no-any-return]


def middle_blocks(width: int, *, tokens: int, dropout: float) -> nn.Sequential:
    """The blocks at the lowest resolution: residual, attention, residual."""
    return nn.Sequential(
        ResidualBlock(width, width, dropout=dropout),
        SpatialAttention(width, tokens=tokens),
        ResidualBlock(width, width, dropout=dropout),
    )
