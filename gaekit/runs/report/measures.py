"""What a report measures of samples: nearest neighbours, copies.

Shape suffixes: N images, D channels, H W latent grid, V numbers of a vector, Q vectors looked up, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaekit.api.metrics import nearer_shares

LEAST_HELD_OUT = 20
"""Held-out images below which nothing is called a copy: that a sample lies nearer than all of a few is mere chance."""
NEARER = 0.5
"""How near a copy lies, as a share of the least distance of a held-out image: of many samples one is always the
nearest, and often nearer than all of as many held-out images, by chance."""
RECONSTRUCTED = 0.95
"""The quantile of the distances between training images and their reconstructions within which a copy lies."""


def unit_vectors(maps_NDHW: Tensor, cells: int = 4) -> Tensor:
    """(N, V) float32 of length 1: maps averaged over at most `cells` x `cells` regions, so that what lies where
    counts and one position more or less does not."""
    side = min(cells, maps_NDHW.shape[-1])
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps_NDHW.float(), side)
    return torch.nn.functional.normalize(pooled.flatten(1), dim=1)


def nearest(query_QV: Tensor, batches: Iterable[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """(distance_QK, index_QK) of the nearest among batches of (index, unit vectors), the nearest first.

    The distance is 1 - cosine, in [0, 2]. K is `count`, or how many there are where these are fewer.
    """
    best = torch.empty(len(query_QV), 0)
    found = torch.empty(len(query_QV), 0, dtype=torch.int64)
    for index_B, vector_BV in batches:
        distance = (1 - query_QV @ vector_BV.T).clamp_min(0)
        best = torch.cat([best, distance], 1)
        found = torch.cat([found, index_B.expand(len(query_QV), -1)], 1)
        best, order = best.topk(min(count, best.shape[1]), dim=1, largest=False, sorted=True)
        found = found.gather(1, order)
    return best, found


@dataclass(frozen=True)
class Copies:
    """How samples lie to the training images, beside how held-out images do.

    `ratio`: median distance of samples over that of held-out images; `nearer`: the share of pairs (sample, held-out
    image) in which the sample lies nearer, one half where both are alike (Mann and Whitney's U, by which Meehan et al.,
    arXiv 2004.05675, tell copying); `bound`: a sample within it is called a copy, None where nothing is.
    """

    ratio: float
    nearer: float
    bound: float | None
    copies: tuple[int, ...]


def find_copies(samples: Tensor, held_out: Tensor, reconstructed: Tensor) -> Copies:
    """Judge distances to the nearest training image, of samples and of held-out images.

    A sample is called a copy where it lies nearer than half of the least distance of a held-out image, and no farther
    than training images lie from their own reconstructions (95 % of them, `reconstructed`): what a copied latent would
    be decoded to.
    """
    middle = float(held_out.median())
    bound: float | None = None
    copies: tuple[int, ...] = ()
    if len(held_out) >= LEAST_HELD_OUT and len(reconstructed):
        least = NEARER * float(held_out.min())
        bound = min(least, float(reconstructed.double().quantile(RECONSTRUCTED)))
        inside = (samples <= bound) & (samples < least)
        copies = tuple(int(place) for place in inside.nonzero().flatten())
    ratio = float(samples.median()) / middle if middle > 0 else float("nan")
    return Copies(ratio, float(nearer_shares(samples, held_out).mean()), bound, copies)


def spread(total: int, count: int) -> list[int]:
    """At most `count` of `total` places, evenly spread, the first among them."""
    count = min(total, count)
    return [place * total // count for place in range(count)]


def spread_over(places: Sequence[int], count: int) -> list[int]:
    """At most `count` of some places, evenly spread."""
    return [places[place] for place in spread(len(places), count)]
