"""Plain transformer blocks, as in vision transformers (arXiv 2010.11929)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from gaekit.nn.attention import Attention

LayerFactory = Callable[[int], nn.Module]
"""Makes a norm or an MLP for a width: `RMSNorm`, `partial(RMSNorm, affine=False)`, `partial(SwiGLU, hidden=256)`."""
Rope = Callable[[Tensor], Tensor]
"""Turns queries or keys, (B, tokens, heads, head_dim)."""


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        tokens: int,
        norm: LayerFactory,
        mlp: LayerFactory,
        qk_norm: LayerFactory | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.norm1 = norm(width)
        self.attn = Attention(width, heads, tokens=tokens, bias=bias, qk_norm=qk_norm)
        self.norm2 = norm(width)
        self.mlp = mlp(width)

    def forward(self, x_BNW: Tensor, rope: Rope | None = None) -> Tensor:
        """(B, tokens, width) -> (B, tokens, width)."""
        x_BNW = x_BNW + self.attn(self.norm1(x_BNW), rope)
        return x_BNW + self.mlp(self.norm2(x_BNW))  # type: ignore[no-any-return]


def xavier_linears(module: nn.Module) -> None:
    """Draw the weights of every linear layer Xavier-uniform and zero the biases, as ViT and DiT start."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
