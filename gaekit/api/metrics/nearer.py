"""Whether samples lie nearer to training images than held-out images do."""

from __future__ import annotations

import torch
from torch import Tensor


def nearer_shares(sample_N: Tensor, held_out_M: Tensor) -> Tensor:
    """Of each sample, in which share of held-out images it lies nearer to its nearest training image than they to
    theirs, given these distances; of equal ones one half. (N,), float64.

    The mean is one half where both lie alike: Mann and Whitney's U over N M, by which Meehan et al. (arXiv 2004.05675)
    tell copying.
    """
    ordered = held_out_M.contiguous().sort().values
    below, within = (torch.searchsorted(ordered, sample_N.contiguous(), right=right) for right in (False, True))
    return 1 - (below + within).double() / (2 * len(ordered))
