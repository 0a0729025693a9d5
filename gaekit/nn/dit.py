"""Transformer blocks under a condition: adaLN-zero of DiT (arXiv 2212.09748)."""

from __future__ import annotations

from torch import Tensor, nn

from gaekit.nn.attention import Attention
from gaekit.nn.vit import LayerFactory, Rope


class Modulation(nn.Sequential):
    """Silu and a linear layer that make `parts` vectors of `width` from a condition.

    Zero at the start, so that a block begins as the identity.
    """

    def __init__(self, width: int, parts: int):
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """(B, width), one for all tokens, or (B, tokens, width) -> `parts` tensors (B, 1 or tokens, width)."""
        each_token = condition if condition.ndim == 3 else condition[:, None]
        silu, linear = self
        return linear(silu(each_token)).chunk(self.parts, dim=2)  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Zero weight and bias."""
        zero_linear(self[1])


def modulate(x_BNW: Tensor, shift: Tensor | None, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift; None shifts nothing."""
    scaled = x_BNW * (1 + scale)
    return scaled if shift is None else scaled + shift


class ModulatedBlock(nn.Module):
    """Transformer block whose norms are shifted and scaled, and whose branches are gated, by a condition.

    Without `shift` the modulation has four parts, (scale, gate) of attention and MLP, else six, (shift, scale, gate).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        tokens: int,
        norm: LayerFactory,
        mlp: LayerFactory,
        qk_norm: LayerFactory | None = None,
        shift: bool = True,
    ):
        super().__init__()
        self.norm1 = norm(width)
        self.attn = Attention(width, heads, tokens=tokens, qk_norm=qk_norm)
        self.norm2 = norm(width)
        self.mlp = mlp(width)
        self.adaLN_modulation = Modulation(width, 6 if shift else 4)

    def forward(self, x_BNW: Tensor, condition: Tensor, rope: Rope | None = None) -> Tensor:
        """(B, tokens, width) under a condition (B, width) or (B, tokens, width) -> (B, tokens, width)."""
        parts = self.adaLN_modulation(condition)
        half = len(parts) // 2
        mixed: Tensor = self.attn(_modulated(self.norm1(x_BNW), parts[:half]), rope)
        x_BNW = x_BNW + parts[half - 1] * mixed
        changed: Tensor = self.mlp(_modulated(self.norm2(x_BNW), parts[half:]))
        return x_BNW + parts[-1] * changed  # type: ignore[no-any-return]


def _modulated(x_BNW: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    *shift, scale, _gate = parts
    return modulate(x_BNW, shift[0] if shift else None, scale)


class FinalLayer(nn.Module):
    """Modulated norm and the projection to a patch's values; zero at first, so that a fresh denoiser answers zero."""

    def __init__(self, width: int, out: int, *, norm: LayerFactory):
        super().__init__()
        self.norm_final = norm(width)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = Modulation(width, 2)

    def forward(self, x_BNW: Tensor, condition: Tensor) -> Tensor:
        """(B, tokens, width) -> (B, tokens, out)."""
        shift, scale = self.adaLN_modulation(condition)
        return self.linear(modulate(self.norm_final(x_BNW), shift, scale))  # type: ignore[no-any-return]

    def reset_parameters(self) -> None:
        """Zero modulation and projection."""
        self.adaLN_modulation.reset_parameters()
        zero_linear(self.linear)


def zero_linear(layer: nn.Module) -> None:
    """Zero a linear layer's weight and bias. The layer may be any module that has a `weight` and a `bias`."""
    for parameter in layer.parameters(recurse=False):
        nn.init.zeros_(parameter)
