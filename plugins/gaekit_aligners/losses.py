"""How far features are from their targets, in float32 whatever they come in. Called outside of autocast."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Distance = Literal["mse", "cosine"]


def distance(ours_BCHW: Tensor, target_BCHW: Tensor, kind: Distance) -> Tensor:
    """The scalar distance of that kind: the mean squared error, or the mean over positions of 1 - cosine over channels.

    For vectors of RMS 1 both say the same: mse = 2 (1 - cosine).
    """
    ours, target = ours_BCHW.float(), target_BCHW.float()
    if kind == "mse":
        return F.mse_loss(ours, target)
    return (1 - F.cosine_similarity(ours, target, dim=1)).mean()


def marginal_cosine(ours_BCHW: Tensor, target_BCHW: Tensor, margin: float) -> Tensor:
    """Mean of relu(1 - margin - cosine over channels) over positions: VA-VAE's first loss (arXiv 2501.01423, eq. 3)."""
    return F.relu(1 - margin - F.cosine_similarity(ours_BCHW.float(), target_BCHW.float(), dim=1)).mean()


def marginal_distances(ours_BCHW: Tensor, target_BCHW: Tensor, margin: float) -> Tensor:
    """Mean of relu(|cosine between two positions here - the same of the target| - margin) over all pairs of an image's
    positions: VA-VAE's second loss (arXiv 2501.01423, eq. 5). The two may differ in width."""
    return F.relu((_similarities(ours_BCHW) - _similarities(target_BCHW)).abs() - margin).mean()


def _similarities(x_BCHW: Tensor) -> Tensor:
    unit = F.normalize(x_BCHW.float().flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit
