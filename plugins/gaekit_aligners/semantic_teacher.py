"""GAE's semantic teacher (arXiv 2603.10365): squeezes a teacher's features to the latent's width and back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from gaekit.api import GaekitError
from gaekit.api.nn import Attention, RMSNorm, SwiGLU, TransformerBlock, rms_normalize, run_block, to_grid, to_tokens

POSITION_STD = 0.02


class SemanticTeacher(nn.Module):
    """Features -> bottleneck of unit RMS -> features, all norms without parameters, no biases.

    `mlp_width` is the hidden width of the decoder's gated MLPs.

    Down: RMSNorm, learned positions, RMSNorm, attention without residual, RMSNorm, linear over windows, RMSNorm.
    Up: linear, learned positions, `depth` transformer blocks, RMSNorm.
    `checkpointing` recomputes each block in the backward pass.
    Raises GaekitError where head_dim does not divide feature_dim, or window does not divide grid.
    """

    checkpointing: bool = False

    def __init__(
        self, feature_dim: int, latent_dim: int, grid: int, *, window: int, depth: int, head_dim: int, mlp_width: int
    ):
        super().__init__()
        if feature_dim % head_dim:
            raise GaekitError(
                f"aligner.head_dim: {head_dim} does not divide the teacher's {feature_dim} channels; "
                f"possible: {', '.join(str(d) for d in range(8, 129) if feature_dim % d == 0) or feature_dim}"
            )
        if grid % window:
            raise GaekitError(
                f"aligner.window: windows of {window} x {window} do not tile the {grid} x {grid} latent grid"
            )
        self.grid, self.window = grid, window
        heads, tokens, area = feature_dim // head_dim, grid * grid, window * window
        norm = partial(RMSNorm, affine=False)
        mlp = partial(SwiGLU, hidden=mlp_width, bias=False)
        self.positions_down = nn.Parameter(torch.empty(1, tokens, feature_dim))
        self.mix = Attention(feature_dim, heads, tokens=tokens, bias=False, qk_norm=norm)
        self.to_latent = nn.Linear(area * feature_dim, area * latent_dim, bias=False)
        self.from_latent = nn.Linear(latent_dim, feature_dim, bias=False)
        self.positions_up = nn.Parameter(torch.empty(1, tokens, feature_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(feature_dim, heads, tokens=tokens, norm=norm, mlp=mlp, qk_norm=norm, bias=False)
            for _ in range(depth)
        )
        for positions in (self.positions_down, self.positions_up):
            nn.init.trunc_normal_(positions, std=POSITION_STD)

    def encode(self, feature_BFHW: Tensor) -> Tensor:
        """-> target_BDHW, of RMS 1 over channels."""
        tokens = rms_normalize(to_tokens(feature_BFHW)) + self.positions_down
        tokens = rms_normalize(self.mix(rms_normalize(tokens)))
        windows = to_windows(tokens, self.grid, self.window)
        return to_grid(rms_normalize(from_windows(self.to_latent(windows), self.grid, self.window)), self.grid)

    def decode(self, target_BDHW: Tensor) -> Tensor:
        """-> the features that the target stands for, of RMS 1 over channels."""
        tokens = self.from_latent(to_tokens(target_BDHW)) + self.positions_up
        for block in self.blocks:
            tokens = run_block(block, tokens, checkpointing=self.checkpointing)
        return to_grid(rms_normalize(tokens), self.grid)

    def regions(self) -> Iterable[nn.Module]:
        """The blocks of the decoder: compiled one by one."""
        return self.blocks

    def forward(self, feature_BFHW: Tensor) -> tuple[Tensor, Tensor]:
        """-> (the reconstructed features, the original ones), both of RMS 1 over channels: what fitting compares."""
        return self.decode(self.encode(feature_BFHW)), rms_normalize(feature_BFHW, dim=1)


def to_windows(tokens_BNC: Tensor, grid: int, window: int) -> Tensor:
    """(B, grid * grid, C) -> (B, windows, window * window * C), row by row inside and outside."""
    batch, side, channels = len(tokens_BNC), grid // window, tokens_BNC.shape[2]
    blocks = tokens_BNC.reshape(batch, side, window, side, window, channels).transpose(2, 3)
    return blocks.reshape(batch, side * side, window * window * channels)


def from_windows(windows_BNC: Tensor, grid: int, window: int) -> Tensor:
    """The inverse of `to_windows`: (B, windows, window * window * C) -> (B, grid * grid, C)."""
    batch, side, channels = len(windows_BNC), grid // window, windows_BNC.shape[2] // window**2
    blocks = windows_BNC.reshape(batch, side, side, window, window, channels).transpose(2, 3)
    return blocks.reshape(batch, grid * grid, channels)
