"""Root-mean-square normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rms_normalize(x: Tensor, *, dim: int = -1, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2 over `dim`) + eps) of x's shape and dtype, the statistics in float32 (arXiv 1910.07467)."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)).type_as(x)


class RMSNorm(nn.Module):
    """RMS normalisation over the last dimension of `width`, with a learned scale where `affine` (arXiv 1910.07467)."""

    weight: nn.Parameter | None

    def __init__(self, width: int, *, affine: bool = True, eps: float = 1e-6):
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width), of x's dtype: the scale does not widen what autocast made narrow."""
        normal = rms_normalize(x, eps=self.eps)
        return normal if self.weight is None else (normal * self.weight).type_as(x)

    def extra_repr(self) -> str:
        """The settings, as `print(module)` shows them."""
        return f"{self.width}, affine={self.weight is not None}, eps={self.eps}"
