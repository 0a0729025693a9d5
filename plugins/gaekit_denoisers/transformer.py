"""What the diffusion transformers have in common: tokens, conditions, modulated blocks, taps.

Shape suffixes: B batch, N tokens, W width; D latent channels, H W latent grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gaekit.api import Denoiser, GaekitError, Prediction
from gaekit.nn.dit import FinalLayer, ModulatedBlock, Modulation
from gaekit.nn.embed import LabelEmbedder, PatchEmbed, RotaryPositions, TimestepEmbedder, sincos_positions, unpatchify
from gaekit.nn.vit import Factory, Rope, xavier_linears

SIZES = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
    "1.0B": (24, 1536, 24),
    "1.6B": (28, 1792, 28),
}
"""Depth, width and heads by name (arXiv 2212.09748, 2501.01423)."""


@dataclass(frozen=True)
class Blueprint:
    """What one diffusion transformer is made of; `out_channels` is D, or 2D with learned variance."""

    depth: int
    width: int
    heads: int
    patch: int
    out_channels: int
    norm: Factory
    mlp: Factory
    qk_norm: Factory | None = None
    rope: bool = False
    shift: bool = True
    absolute_positions: bool = True


class TransformerDenoiser(Denoiser):
    """Base of the denoisers that are a stack of modulated blocks under the sum of a time's and a label's embedding.

    `checkpointing` recomputes each block in the backward pass: less memory for more time, the same numbers.
    """

    checkpointing: bool = False

    def __init__(self, config: Any, blueprint: Blueprint, *, channels: int, grid: int, classes: int):
        super().__init__(config, channels=channels, grid=grid, classes=classes)
        self.patch = blueprint.patch
        if grid % self.patch:
            raise GaekitError(f"diffusion.denoiser.patch: {self.patch} does not divide the latent grid of {grid}")
        self.side = grid // self.patch
        width, heads = blueprint.width, blueprint.heads
        self.x_embedder = PatchEmbed(channels, width, self.patch)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(classes, width)
        # Fixed, but a parameter: published checkpoints count and hold it as one.
        fixed = (
            nn.Parameter(sincos_positions(width, self.side), requires_grad=False)
            if blueprint.absolute_positions
            else None
        )
        self.pos_embed = fixed
        self.blocks = nn.ModuleList(self._block(blueprint) for _ in range(blueprint.depth))
        self.feat_rope = RotaryPositions(width // heads, self.side) if blueprint.rope else None
        self.final_layer = FinalLayer(width, self.patch**2 * blueprint.out_channels, norm=blueprint.norm)
        self._initialise()

    def _block(self, blueprint: Blueprint) -> nn.Module:
        return ModulatedBlock(
            blueprint.width,
            blueprint.heads,
            tokens=self.side**2,
            norm=blueprint.norm,
            mlp=blueprint.mlp,
            qk_norm=blueprint.qk_norm,
            shift=blueprint.shift,
        )

    def _initialise(self) -> None:
        """DiT's start: Xavier everywhere, then small embeddings, and zero modulations and output."""
        xavier_linears(self)
        for part in self.modules():
            if isinstance(part, PatchEmbed | TimestepEmbedder | LabelEmbedder | Modulation | FinalLayer):
                part.reset_parameters()

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Prediction:
        """The prediction at time t, float32; `taps` ("block.3") name blocks whose output (B, N, W) is returned too.

        Raises GaekitError for a tap that names no block.
        """
        self._check_taps(taps)
        x_BNW = self.x_embedder(x_BDHW)
        if self.pos_embed is not None:
            x_BNW = x_BNW + self.pos_embed
        condition_BW = self.t_embedder(t_B) + self.y_embedder(label_B)
        features = {}
        for index, block in enumerate(self.blocks):
            x_BNW = self._run(block, x_BNW, condition_BW, self.feat_rope)
            if f"block.{index}" in taps:
                features[f"block.{index}"] = x_BNW
        out = unpatchify(self.final_layer(x_BNW, condition_BW), patch=self.patch, grid=self.side)
        return self._prediction(out.float(), features)

    def _prediction(self, out: Tensor, features: dict[str, Tensor]) -> Prediction:
        """What the last layer's channels mean; a denoiser with learned variance splits them here."""
        return Prediction(out, features=features)

    def _run(self, block: nn.Module, x_BNW: Tensor, condition: Tensor, rope: Rope | None) -> Tensor:
        if self.checkpointing and self.training:
            return checkpoint(block, x_BNW, condition, rope, use_reentrant=False)  # type: ignore[no-any-return]
        return block(x_BNW, condition, rope)  # type: ignore[no-any-return]

    def _check_taps(self, taps: tuple[str, ...]) -> None:
        known = {f"block.{index}" for index in range(len(self.blocks))}
        if unknown := [tap for tap in taps if tap not in known]:
            raise GaekitError(
                f"no hidden state {', '.join(unknown)}; this denoiser has block.0 to block.{len(known) - 1}"
            )
