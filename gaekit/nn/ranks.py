"""Statistics that do not depend on how a batch is split over the processes of a run."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def pooled_over_ranks(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance) over all ranks from each one's own, of equally many numbers; detached. As given where there is
    one process. Every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return mean.detach(), variance.detach()
    sums = torch.stack([mean, variance + mean.square()]).detach().double()
    dist.all_reduce(sums)
    pooled, square = sums / dist.get_world_size()
    return pooled.to(mean), (square - pooled.square()).clamp(min=0).to(variance)
