"""From pixels, positions, times and labels to tokens, and from tokens back to a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gaekit.errors import GaekitError


class PatchEmbed(nn.Module):
    """Non-overlapping square patches of an image or latent, each projected to one token."""

    def __init__(self, channels: int, width: int, patch: int, *, bias: bool = True):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch, bias=bias)

    def forward(self, x_BCRR: Tensor) -> Tensor:
        """(B, channels, R, R) -> (B, (R / patch)^2, width), row by row."""
        return self.proj(x_BCRR).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Xavier-uniform as a linear layer over a whole patch, which it is."""
        with torch.no_grad():
            nn.init.xavier_uniform_(self.proj.weight.view(self.proj.weight.shape[0], -1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)


def to_grid(tokens_BNC: Tensor, grid: int) -> Tensor:
    """(B, grid * grid, C) -> (B, C, grid, grid)."""
    batch, _, channels = tokens_BNC.shape
    return tokens_BNC.transpose(1, 2).reshape(batch, channels, grid, grid)


def to_tokens(x_BCHW: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x_BCHW.flatten(2).transpose(1, 2)


def unpatchify(tokens_BNC: Tensor, *, patch: int, grid: int) -> Tensor:
    """(B, grid * grid, patch * patch * C) -> (B, C, grid * patch, grid * patch); a token is (row, column, C)."""
    blocks = tokens_BNC.reshape(tokens_BNC.shape[0], grid, grid, patch, patch, -1)
    return blocks.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sincos_positions(width: int, grid: int, *, extent: float | None = None) -> Tensor:
    """Fixed positions (1, grid * grid, width) of DiT (arXiv 2212.09748).

    Sines and cosines of the column in the first half of the channels, of the row in the second, wavelengths from 2 pi
    to 10000 * 2 pi. Rows and columns are `extent` / grid apart, 1 by default. Raises GaekitError unless 4 divides
    `width`.
    """
    if width % 4:
        raise GaekitError(f"width: {width} cannot carry two-dimensional sin-cos positions; a multiple of 4 can")
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    place = torch.arange(grid, dtype=torch.float64) * ((extent or grid) / grid)
    angle = place[:, None] * frequency
    one_axis = torch.cat([angle.sin(), angle.cos()], dim=1).float()
    column = one_axis[None, :, :].expand(grid, -1, -1)
    row = one_axis[:, None, :].expand(-1, grid, -1)
    return torch.cat([column, row], dim=2).reshape(1, grid * grid, width)


class RotaryPositions(nn.Module):
    """Two-dimensional rotary positions for queries and keys (RoFormer, arXiv 2104.09864, in EVA-02's layout).

    Neighbouring channels are turned by angles that grow with the row (first half of a head) and the column (second
    half). The tables are buffers that travel with the weights. Raises GaekitError unless 4 divides `head_dim`.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_dim: int, grid: int, *, base: float = 10000.0):
        super().__init__()
        if head_dim % 4:
            raise GaekitError(
                f"width / heads: {head_dim} cannot carry two-dimensional rotary positions; a multiple of 4 can"
            )
        frequency = base ** (-torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
        angle = (torch.arange(grid).float()[:, None] * frequency).repeat_interleave(2, dim=1)
        row = angle[:, None, :].expand(-1, grid, -1)
        column = angle[None, :, :].expand(grid, -1, -1)
        angles = torch.cat([row, column], dim=2).reshape(grid * grid, head_dim)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x_BNhd: Tensor) -> Tensor:
        """(B, tokens, heads, head_dim) -> the same shape, turned; float32 wherever x is narrower."""
        even, odd = x_BNhd[..., 0::2], x_BNhd[..., 1::2]
        quarter_turn = torch.stack((-odd, even), dim=-1).flatten(-2)
        return x_BNhd * self.freqs_cos[:, None, :] + quarter_turn * self.freqs_sin[:, None, :]


class TimestepEmbedder(nn.Module):
    """Times to vectors: cosines and sines at `frequencies / 2` rates from 1 down to 1/10000, then an MLP.

    As in ADM and DiT (arXiv 2105.05233, 2212.09748). Time enters as it is: [0, 1] for flows, the integer step for DDPM.
    """

    def __init__(self, width: int, *, frequencies: int = 256):
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        half = self.frequencies // 2
        rate = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t_B.device) / half)
        angle = t_B.float()[:, None] * rate
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Normal of standard deviation 0.02, as in DiT."""
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)


class FourierEmbedder(nn.Module):
    """Times in [0, 1] to vectors: sines and cosines at fixed random frequencies, then an MLP.

    Fourier features (arXiv 2006.10739, 2011.13456) of `frequencies` rates drawn from N(0, 1), in turns a unit of time;
    fixed, but a parameter, as published checkpoints hold it.
    """

    def __init__(self, width: int, *, frequencies: int = 256):
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(frequencies), requires_grad=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        angle = 2 * math.pi * t_B.float()[:, None] * self.frequencies
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=1))  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """New frequencies; the weights of the MLP normal of standard deviation 0.02, its biases as torch draws them, as
        in RAE."""
        nn.init.normal_(self.frequencies)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
                nn.init.normal_(layer.weight, std=0.02)


class LabelEmbedder(nn.Module):
    """Class labels to vectors: a table of K + 1 rows, of which row K stands for "no class".

    Dropping labels is the business of the objective.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, label_B: Tensor) -> Tensor:
        """(B,) integers in 0..K -> (B, width)."""
        return self.embedding_table(label_B)  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Normal of standard deviation 0.02, as in DiT."""
        nn.init.normal_(self.embedding_table.weight, std=0.02)
