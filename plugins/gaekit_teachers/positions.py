"""Learned positions at another grid, where timm's way is not the original one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

OFFSET = 0.1
"""DINOv2's guard against a grid one too small by rounding; it moves every sampled position a little."""


def resample_dinov2(model: Any, grid: int) -> None:
    """Resample the positions of a timm ViT to `grid` as DINOv2's own code does.

    Bicubic by the scale (grid + 0.1) / old, without antialiasing. timm finds them in place afterwards.
    """
    old = int(model.patch_embed.grid_size[0])
    if old == grid:
        return
    table = model.pos_embed.detach()
    prefix = table.shape[1] - old * old
    square = table[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (grid + OFFSET) / old
    square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    tokens = square.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)
    model.pos_embed = nn.Parameter(torch.cat([table[:, :prefix], tokens], dim=1), requires_grad=False)
    patch = model.patch_embed.patch_size
    model.patch_embed.set_input_size(img_size=(grid * patch[0], grid * patch[1]))
