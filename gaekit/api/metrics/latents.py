"""What is measured of latents, and of images as maps: variances of channels, effective rank, power spectra, noise.

Shape suffixes: N images, D channels, H W latent grid, K frequencies along a side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gaekit.api.metrics.groups import GROUPS, groups_of
from gaekit.intervals import Interval, jackknife_interval
from gaekit.seeds import random_rows, seed_for

CAP_DB = 100.0
"""Identical images have an infinite PSNR, which no mean survives and no JSON holds."""
Sums = Mapping[str, Tensor]
"""Sums over images, by name, float64."""


class GroupedSums:
    """Sums over images of what `of` makes of a batch of maps, of all and of each of `GROUPS` groups, for intervals.

    The images of a group are those that `groups_of` names, however batches are cut.
    """

    def __init__(self, of: Callable[[Tensor], dict[str, Tensor]]):
        self.of, self.count = of, 0
        self._groups: list[dict[str, Tensor]] = [{} for _ in range(GROUPS)]

    def add(self, maps_NDHW: Tensor) -> None:
        """Take in a batch."""
        group_N = groups_of(self.count, self.count + len(maps_NDHW)).to(maps_NDHW.device)
        self.count += len(maps_NDHW)
        for group, sums in enumerate(self._groups):
            if len(own := maps_NDHW[group_N == group]):
                for name, value in self.of(own).items():
                    sums[name] = sums[name] + value if name in sums else value

    def without(self, *groups: int) -> Sums:
        """The sums over the images outside of some groups; of all, without arguments."""
        total: dict[str, Tensor] = {}
        for group, sums in enumerate(self._groups):
            if group not in groups:
                for name, value in sums.items():
                    total[name] = total[name] + value if name in total else value
        return total

    def interval(self, number: Callable[[Sums], float], what: str, least: float = 0.0) -> Interval | None:
        """Of a number that these sums make, at least `least`: the jackknife over groups. None where a group would have
        fewer than two images."""
        if self.count < 2 * GROUPS:
            return None
        single = [number(self.without(group)) for group in range(GROUPS)]
        pairs = [number(self.without(group, group + 1)) for group in range(0, GROUPS, 2)]
        return jackknife_interval(number(self.without()), single, pairs, f"{self.count} {what}", least=least)


def moment_sums(maps_NDHW: Tensor) -> dict[str, Tensor]:
    """How many positions there are in all, the sum of their channels (D,) and of the products of these (D, D)."""
    rows = maps_NDHW.double().movedim(1, -1).reshape(-1, maps_NDHW.shape[1])
    count = torch.tensor(float(len(rows)), dtype=torch.float64)
    return {"count": count, "first": rows.sum(0), "second": rows.T @ rows}


def power_sums(maps_NDHW: Tensor) -> dict[str, Tensor]:
    """How many images there are, the sum of each channel's mean (D,), and that of its power at each frequency
    (D, H, W): |F|^2 of the orthonormal transform."""
    maps = maps_NDHW.double()
    power = torch.fft.fft2(maps, norm="ortho").abs().square().sum(0)
    images = torch.tensor(float(len(maps)), dtype=torch.float64)
    return {"images": images, "mean": maps.mean((2, 3)).sum(0), "power": power}


def variances_of(sums: Sums) -> Tensor:
    """From `moment_sums`: the eigenvalues of the covariance of channels over images and positions, (D,), greatest
    first."""
    mean = sums["first"] / sums["count"]
    covariance = sums["second"] / sums["count"] - torch.outer(mean, mean)
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


def channel_variances(maps_NDHW: Tensor) -> Tensor:
    """`variances_of` some maps."""
    return variances_of(moment_sums(maps_NDHW.double() - maps_NDHW.double().mean((0, 2, 3), keepdim=True)))


def standard_power(sums: Sums) -> Tensor:
    """From `power_sums`: the mean power of each frequency (H, W) over channels that are brought to mean 0 and variance
    1 over images and positions, so that white noise has 1 everywhere. A channel that is constant has none."""
    power_DHW, mean_D = sums["power"] / sums["images"], sums["mean"] / sums["images"]
    square = power_DHW.mean((1, 2))
    power_DHW[:, 0, 0] -= mean_D.square() * power_DHW[0].numel()
    variance = power_DHW.mean((1, 2))
    varies = variance > 1e-12 * square
    scale = torch.where(varies, 1 / torch.where(varies, variance, 1.0), 0.0)
    standard: Tensor = (power_DHW * scale[:, None, None]).mean(0)
    return standard


def radii(side: int) -> Tensor:
    """(side, side): how many cycles along a side each place of a transform stands for, whatever its direction."""
    along = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    radius: Tensor = (along[:, None].square() + along[None, :].square()).sqrt()
    return radius


def rings_of(power_HW: Tensor) -> tuple[list[int], list[float]]:
    """(cycles along a side, mean power there): frequencies are averaged over rings one cycle wide, up to the highest
    that every direction has. Cycles of 0 are left out."""
    side = len(power_HW)
    ring = radii(side).round().long().flatten()
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add_(0, ring, power_HW.double().cpu().flatten())
    rings, counts = range(1, side // 2 + 1), torch.bincount(ring)
    return list(rings), [float(sums[r] / counts[r]) for r in rings]


def radial_spectrum(maps_NDHW: Tensor) -> tuple[list[int], list[float]]:
    """`rings_of` the `standard_power` of some square maps."""
    return rings_of(standard_power(power_sums(maps_NDHW)))


def low_share(power_HW: Tensor, cutoff: float) -> float:
    """The share of power at no more than `cutoff` of the highest frequency that every direction has, the mean of each
    map with it."""
    low = radii(len(power_HW)) <= cutoff * (len(power_HW) // 2)
    total = float(power_HW.sum())
    return float(power_HW.cpu()[low].sum()) / total if total > 0 else 0.0


def spectral_slope(power_HW: Tensor) -> float:
    """a of the power law 1 / f^a that fits the rings best: least squares of the logarithms. White noise has 0, natural
    images about 2. Raises ValueError for maps of fewer than 4 x 4, which have no two rings."""
    rings, power = rings_of(power_HW)
    if len(rings) < 2:
        raise ValueError(f"maps of {len(power_HW)} x {len(power_HW)} have fewer than two rings of frequencies")
    x = [math.log(ring) for ring in rings]
    y = [math.log(max(value, 1e-30)) for value in power]
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    fall = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return -fall / math.fsum((a - mean_x) ** 2 for a in x)


def noise_of(index_B: Tensor, tail: Sequence[int], seed: int, device: torch.device) -> Tensor:
    """Standard normal numbers (B, *tail) for images by their places in a split: an image's depend on the seed and on
    its place alone, and are the same on every device."""
    places = index_B.tolist()
    start = seed_for("noise of images", seed)
    rows = [
        random_rows(Tensor.normal_, start, place, place + 1, tail, torch.device("cpu"), block=1) for place in places
    ]
    return torch.cat(rows).to(device) if rows else torch.empty(0, *tail, device=device)


def random_of(index_B: Tensor, seed: int) -> Tensor:
    """A uniform number in [0, 1) for each image by its place in a split (B,), on the CPU; as `noise_of`."""
    start = seed_for("choice of images", seed)
    rows = [
        random_rows(Tensor.uniform_, start, place, place + 1, (1,), torch.device("cpu"), block=1)
        for place in index_B.tolist()
    ]
    return torch.cat(rows)[:, 0] if rows else torch.empty(0)


def root_mean_square(maps_NDHW: Tensor) -> float:
    """Over all numbers of some maps: the unit of noise, 1 for latents that a norm holds at unit RMS."""
    return float(maps_NDHW.double().square().mean().sqrt())


def psnr(real_B3RR: Tensor, fake_B3RR: Tensor) -> list[float]:
    """10 log10(255^2 / MSE) of each pair of uint8 images, dB, at most `CAP_DB`; exact integers up to the logarithm."""
    squares = (real_B3RR.int() - fake_B3RR.int()).square().flatten(1).sum(1).tolist()
    pixels = real_B3RR[0].numel()
    return [min(CAP_DB, 10 * math.log10(255**2 * pixels / total)) if total else CAP_DB for total in squares]
