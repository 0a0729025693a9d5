"""The position-wise halves of transformer blocks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


def gated_width(width: int, ratio: float, *, multiple: int = 1) -> int:
    """Hidden width that gives a gated MLP the parameters of a plain one: two thirds of `width * ratio`, rounded up to a
    multiple of `multiple` (arXiv 2002.05202)."""
    hidden = int(width * ratio * 2 / 3)
    return -(-hidden // multiple) * multiple


class SwiGLU(nn.Module):
    """w3(silu(a) * b) with (a, b) = w12(x): a gated MLP (arXiv 2002.05202). Both inner projections are one matrix."""

    def __init__(self, width: int, hidden: int, *, bias: bool = True):
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden, bias=bias)
        self.w3 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)  # type: ignore[no-any-return]


class MLP(nn.Module):
    """fc2(gelu(fc1(x))), GELU in its tanh approximation as in DiT (arXiv 2212.09748), or exact as in ViT."""

    def __init__(self, width: int, hidden: int, *, bias: bool = True, gelu: Literal["tanh", "exact"] = "tanh"):
        super().__init__()
        self.approximate = "none" if gelu == "exact" else gelu
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))  # type: ignore[no-any-return]
