"""What the diffusion transformers have in common: tokens, conditions, modulated blocks, taps.

Shape suffixes: B batch, N tokens, W width; D latent channels, H W latent grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gaekit.api import Denoiser, GaekitError, Prediction
from gaekit.api.nn import (
    FinalLayer,
    FourierEmbedder,
    LabelEmbedder,
    LayerFactory,
    ModulatedBlock,
    Modulation,
    PatchEmbed,
    Rope,
    RotaryPositions,
    TimestepEmbedder,
    run_block,
    sincos_positions,
    unpatchify,
    xavier_linears,
)

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
    norm: LayerFactory
    mlp: LayerFactory
    qk_norm: LayerFactory | None = None
    rope: bool = False
    shift: bool = True
    absolute_positions: bool = True


class BlockDenoiser(Denoiser):
    """Base of the denoisers made of modulated blocks: patches, taps and checkpointing.

    `checkpointing` recomputes each block in the backward pass: less memory for more time, the same numbers. A subclass
    fills `blocks`. Raises GaekitError unless `patch` divides the grid.
    """

    checkpointing: bool = False
    blocks: nn.ModuleList

    def __init__(self, config: Any, *, patch: int, channels: int, grid: int, classes: int):
        super().__init__(config, channels=channels, grid=grid, classes=classes)
        if grid % patch:
            raise GaekitError(f"diffusion.denoiser.patch: {patch} does not divide the latent grid of {grid}")
        self.patch, self.side = patch, grid // patch

    def regions(self) -> Iterable[nn.Module]:
        """The blocks: compiled one by one."""
        return self.blocks

    def _stack(self, blueprint: Blueprint) -> list[ModulatedBlock]:
        """As many blocks as the blueprint is deep."""
        return [
            ModulatedBlock(
                blueprint.width,
                blueprint.heads,
                tokens=self.side**2,
                norm=blueprint.norm,
                mlp=blueprint.mlp,
                qk_norm=blueprint.qk_norm,
                shift=blueprint.shift,
            )
            for _ in range(blueprint.depth)
        ]

    def _rope(self, blueprint: Blueprint) -> RotaryPositions | None:
        return RotaryPositions(blueprint.width // blueprint.heads, self.side) if blueprint.rope else None

    def _fixed_positions(self, blueprint: Blueprint) -> nn.Parameter | None:
        """Fixed, but a parameter: published checkpoints count and hold it as one."""
        if not blueprint.absolute_positions:
            return None
        return nn.Parameter(sincos_positions(blueprint.width, self.side), requires_grad=False)

    def _reset_parts(self) -> None:
        """DiT's start of what does not start as torch does: small embeddings, zero modulations and output."""
        for part in self.modules():
            if isinstance(
                part, PatchEmbed | TimestepEmbedder | FourierEmbedder | LabelEmbedder | Modulation | FinalLayer
            ):
                part.reset_parameters()

    def _walk(
        self,
        indices: range,
        x_BNW: Tensor,
        condition: Tensor,
        rope: Rope | None,
        taps: tuple[str, ...],
        features: dict[str, Tensor],
    ) -> Tensor:
        """Through these blocks; what `taps` ask for goes into `features`."""
        for index in indices:
            x_BNW = run_block(self.blocks[index], x_BNW, condition, rope, checkpointing=self.checkpointing)
            if f"block.{index}" in taps:
                features[f"block.{index}"] = x_BNW
        return x_BNW

    def _check_taps(self, taps: tuple[str, ...]) -> None:
        known = {f"block.{index}" for index in range(len(self.blocks))}
        if unknown := [tap for tap in taps if tap not in known]:
            raise GaekitError(
                f"no hidden state {', '.join(unknown)}; this denoiser has block.0 to block.{len(known) - 1}"
            )


class TransformerDenoiser(BlockDenoiser):
    """Base of the denoisers that are one stack of blocks under the sum of a time's and a label's embedding."""

    def __init__(self, config: Any, blueprint: Blueprint, *, channels: int, grid: int, classes: int):
        super().__init__(config, patch=blueprint.patch, channels=channels, grid=grid, classes=classes)
        width = blueprint.width
        self.x_embedder = PatchEmbed(channels, width, self.patch)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(classes, width)
        self.pos_embed = self._fixed_positions(blueprint)
        self.blocks = nn.ModuleList(self._stack(blueprint))
        self.feat_rope = self._rope(blueprint)
        self.final_layer = FinalLayer(width, self.patch**2 * blueprint.out_channels, norm=blueprint.norm)
        xavier_linears(self)
        self._reset_parts()

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Prediction:
        """The prediction at time t, float32; `taps` ("block.3") name blocks whose output (B, N, W) is returned too.

        Raises GaekitError for a tap that names no block.
        """
        self._check_taps(taps)
        x_BNW = self.x_embedder(x_BDHW)
        if self.pos_embed is not None:
            x_BNW = x_BNW + self.pos_embed
        condition_BW = self.t_embedder(self._time(t_B)) + self.y_embedder(label_B)
        features: dict[str, Tensor] = {}
        x_BNW = self._walk(range(len(self.blocks)), x_BNW, condition_BW, self.feat_rope, taps, features)
        out = unpatchify(self.final_layer(x_BNW, condition_BW), patch=self.patch, grid=self.side)
        return self._prediction(out.float(), features)

    def _time(self, t_B: Tensor) -> Tensor:
        """The time as the network embeds it; a denoiser of integer steps reads the step here."""
        return t_B

    def _prediction(self, out: Tensor, features: dict[str, Tensor]) -> Prediction:
        """What the last layer's channels mean; a denoiser with learned variance splits them here."""
        return Prediction(out, features=features)
