"""The inverse of a standardisation, as the first layer of a decoder. Shape suffixes: B batch, D channels, H W grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rescale(nn.Module):
    """x * scale + shift, learned for each channel, or with a `side` for each channel at each position of such a grid.

    With `scale` the deviation and `shift` the mean of what a regularizer `standardize` has standardised it gives that
    back. It starts as the identity.
    """

    def __init__(self, width: int, side: int = 1):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, side, side))
        self.shift = nn.Parameter(torch.zeros(width, side, side))

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W)."""
        return x_BDHW * self.scale + self.shift
