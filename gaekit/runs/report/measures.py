"""What a report measures of latents and of samples: spectra, effective rank, nearest neighbours, copies.

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


def channel_variances(latent_NDHW: Tensor) -> Tensor:
    """The eigenvalues of the covariance of channels over images and positions, (D,) float64, greatest first."""
    rows = latent_NDHW.double().movedim(1, -1).reshape(-1, latent_NDHW.shape[1])
    rows = rows - rows.mean(0)
    covariance = rows.T @ rows / len(rows)
    values: Tensor = torch.linalg.eigvalsh(covariance)
    return values.flip(0).clamp_min(0)


def effective_rank(variances: Tensor) -> float:
    """exp of the entropy of the shares of variance: D where all directions vary alike, 1 where one alone does (after
    Roy and Vetterli, EUSIPCO 2007, who take singular values). 0 where nothing varies."""
    total = float(variances.sum())
    if total <= 0:
        return 0.0
    share = variances.double() / total
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())


def radial_spectrum(maps_NDHW: Tensor) -> tuple[list[int], list[float]]:
    """(cycles along a side, mean power there) of square maps whose channels are brought to mean 0 and variance 1.

    The power of a frequency is |F|^2 of the orthonormal transform, so that white noise has 1 everywhere; frequencies
    are averaged over rings one cycle wide, up to the highest that every direction has. Cycles of 0 are left out.
    """
    side = maps_NDHW.shape[-1]
    standard = standardised(maps_NDHW)
    power = torch.fft.fft2(standard, norm="ortho").abs().square().mean((0, 1))
    along = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    ring = (along[:, None].square() + along[None, :].square()).sqrt().round().long().flatten()
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add_(0, ring, power.double().flatten())
    rings = range(1, side // 2 + 1)
    counts = torch.bincount(ring)
    return list(rings), [float(sums[r] / counts[r]) for r in rings]


def standardised(maps_NDHW: Tensor) -> Tensor:
    """Each channel with mean 0 and variance 1 over images and positions, float64; one that is constant is 0."""
    maps = maps_NDHW.double()
    mean, std = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), correction=0, keepdim=True)
    return (maps - mean) / torch.where(std > 0, std, 1.0)


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
