"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import GaekitError, Interval, Metric
from gaekit.api.metrics import (
    GROUPS,
    Scoring,
    Subset,
    groups_of,
    half_splits,
    share_interval,
    student_t,
    wilson,
)
from gaekit_metrics._sampled import InceptionMetric, InceptionSettings, SubsetSettings, on_one_device

BLOCK = 4096
"""Rows of a distance matrix at once, and columns: 128 MiB, whatever the number of images."""


def squared_distances(row_NF: Tensor, other_MF: Tensor) -> Tensor:
    """Squared Euclidean distances (N, M), float64; those within the rounding of equal rows are exactly 0."""
    row_NF, other_MF = row_NF.double(), other_MF.double()
    size = row_NF.square().sum(1)[:, None] + other_MF.square().sum(1)
    distance = torch.addmm(size, row_NF, other_MF.T, alpha=-2)
    return distance.masked_fill_(distance <= size * (row_NF.shape[1] * torch.finfo(torch.float64).eps), 0.0)


def nearest(row_NF: Tensor, other_MF: Tensor, count: int, block: int = BLOCK) -> Tensor:
    """Squared distances (N, count) of each row to the nearest of the others, from small to large, float64; infinite
    beyond the last of them."""
    return nearest_of(row_NF, other_MF, count, block)[0]


def nearest_of(row_NF: Tensor, other_MF: Tensor, count: int, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """The same, and which of the others they are, -1 beyond the last."""
    distances, places = [], []
    for rows in torch.split(row_NF, block):
        best = rows.new_full((len(rows), count), torch.inf, dtype=torch.float64)
        found = torch.full((len(rows), count), -1, dtype=torch.int64, device=rows.device)
        for first, others in zip(range(0, len(other_MF), block), torch.split(other_MF, block), strict=True):
            best, order = torch.cat([best, squared_distances(rows, others)], 1).topk(count, largest=False)
            here = torch.arange(first, first + len(others), device=rows.device).expand(len(rows), -1)
            found = torch.cat([found, here], 1).gather(1, order)
        distances.append(best)
        places.append(found)
    return torch.cat(distances), torch.cat(places)


def squared_radii(row_NF: Tensor, k: int, block: int = BLOCK) -> Tensor:
    """Squared distance (N,) of each row to its k-th nearest other one, float64."""
    return nearest(row_NF, row_NF, k + 1, block)[:, -1]  # the nearest of all is the row itself


def squared_radii_of_halves(row_NF: Tensor, k: int, group_N: Tensor, block: int = BLOCK) -> Tensor:
    """Those among all rows, (N,), and below them, for every split of the groups (`half_splits`), those of each row
    among the rows of its own half, infinitely small for the rows of the other: (1 + 2 (GROUPS - 1), N)."""
    near = torch.stack([nearest(row_NF, row_NF[group_N == group], k + 1, block) for group in range(GROUPS)], 1)
    found = [near.flatten(1).kthvalue(k + 1).values]
    for split in half_splits().to(row_NF.device):
        own = split[group_N]
        other_half = (split != own[:, None])[..., None]
        radius_N = near.masked_fill(other_half, torch.inf).flatten(1).kthvalue(k + 1).values
        found += [radius_N.where(own, -torch.inf), radius_N.where(~own, -torch.inf)]
    return torch.stack(found)


def inside(row_NF: Tensor, centre_MF: Tensor, radius_SM: Tensor, block: int = BLOCK) -> Tensor:
    """Whether each row is inside at least one ball around a centre, given squared radii of S series of balls (eq. 1);
    bool (S, N)."""
    found = []
    for rows in torch.split(row_NF, block):
        own = torch.zeros(len(radius_SM), len(rows), dtype=torch.bool, device=rows.device)
        for centres, radii in zip(torch.split(centre_MF, block), torch.split(radius_SM, block, 1), strict=True):
            distance = squared_distances(rows, centres)
            for series, radius in zip(own, radii, strict=True):
                series |= (distance <= radius).any(1)
        found.append(own)
    return torch.cat(found, 1)


def share_inside(row_NF: Tensor, centre_MF: Tensor, radius_M: Tensor, block: int = BLOCK) -> float:
    """Share of rows inside at least one ball around a centre, given squared radii."""
    return int(inside(row_NF, centre_MF, radius_M[None], block).sum()) / len(row_NF)


def recall_bounds(share: float, half_SN: Tensor, other_half_SN: Tensor) -> tuple[float, float]:
    """The interval of the share of N fixed rows that the manifold of a random set covers, from which rows are covered
    by the manifold of either half of it, for S balanced splits.

    Halves are independent sets, so their differences tell the variance of a set half as large: of each row, which has
    as many balls around it for any size of the set, and the covariance of different rows, which halves when the set is
    doubled. (The jackknife would not do: a row that one image alone covers counts whole.) From this variance, how
    many independent rows the N are worth, and Wilson's bounds by t of as many degrees of freedom as there are splits.
    """
    splits, count = half_SN.shape
    difference = half_SN.double() - other_half_SN.double()
    squares = difference.square().sum(1)
    of_rows = float(squares.mean()) / 2
    between_rows = float((difference.sum(1).square() - squares).mean()) / 4
    variance = (of_rows + max(0.0, between_rows)) / count**2
    worth = share * (1 - share) / variance if variance else count
    return wilson(share, worth or count, student_t(splits))


class Neighbourhoods(Scoring):
    """Gathers features of both sides for precision, recall, or both."""

    real: Subset
    fake: Subset

    def __init__(self, metric: Metric, names: Sequence[str], real: Subset, fake: Subset, *, k: int, seed: int):
        self.metric, self.names, self.k, self.seed = metric, names, k, seed
        self.real, self.fake = real, fake
        self._intervals: dict[str, Interval] = {}

    def compute(self) -> dict[str, float]:
        """{precision, recall: share in [0, 1]}, those asked for. Raises GaekitError for k or fewer images on a side."""
        for side, what in ((self.real, "real"), (self.fake, "generated")):
            if len(side) <= self.k:
                raise GaekitError(
                    f"metric '{self.metric.name}' judges {len(side)} {what} image(s) by their k = {self.k} nearest; "
                    f"it needs at least {self.k + 1}"
                )
        real, fake = on_one_device(self.real, self.fake)
        found = {}
        if "precision" in self.names:
            right = int(inside(fake, real, squared_radii(real, self.k)[None]).sum())
            found["precision"] = right / len(fake)
            self._intervals["precision"] = share_interval(right, len(fake))
        if "recall" in self.names:
            found["recall"] = self._recall(real, fake)
        return found

    def intervals(self) -> dict[str, Interval]:
        """Both are about other generated images. For precision these are independent trials against one manifold;
        recall's is that of the manifold of the generated ones, none where a half of them is too small for a ball."""
        return self._intervals

    def protocol(self) -> dict[str, Any]:
        """k, how many images of each side were judged, and by which seed they were drawn."""
        return {
            "k": self.k,
            "n_judged": len(self.fake),
            "n_reference_judged": len(self.real),
            "limit": self.fake.limit,
            "reference_limit": self.real.limit,
            "subset_seed": self.seed,
            "distances": "Euclidean, float64",
        }

    def _recall(self, real: Tensor, fake: Tensor) -> float:
        group_N = groups_of(0, len(fake)).to(fake.device)
        if len(fake) // GROUPS * (GROUPS // 2) <= self.k:  # the fewest of a half
            return share_inside(real, fake, squared_radii(fake, self.k))
        covered = inside(real, fake, squared_radii_of_halves(fake, self.k, group_N))
        share = int(covered[0].sum()) / len(real)
        how = f"95 %, {GROUPS - 1} balanced halves of {len(fake)} images"
        self._intervals["recall"] = Interval(*recall_bounds(share, covered[1::2], covered[2::2]), how)
        return share


class PrecisionRecallSettings(SubsetSettings):
    """What precision and recall can be told."""

    k: PositiveInt = Field(default=3, description="a ball around an image reaches to its k-th nearest neighbour")

    def neighbourhoods(self, metric: Metric, seed: int, *names: str) -> Neighbourhoods:
        """The scoring of `names`."""
        return Neighbourhoods(metric, names, *self.collectors(seed), k=self.k, seed=seed)


class PrecisionRecallConfig(PrecisionRecallSettings, InceptionSettings):
    """Settings of `precision` and of `recall`."""


class Precision(InceptionMetric):
    """Share of generated images that lie in the manifold of real ones (arXiv 1904.06991), on Inception's features.

    The manifold is the union of balls around real images, each as wide as to the k-th nearest other one. Depends on how
    many images a side has. Raises GaekitError without the network's weights, and for k or fewer images.
    """

    name = "precision"
    Config = PrecisionRecallConfig
    config: PrecisionRecallConfig

    def scorings(self) -> list[Scoring]:
        """Precision alone."""
        return [self.config.neighbourhoods(self, self.config.seed, "precision")]


class Recall(InceptionMetric):
    """Share of real images that lie in the manifold of generated ones (arXiv 1904.06991), on Inception's features.

    The converse of `precision`, by the same settings.
    """

    name = "recall"
    Config = PrecisionRecallConfig
    config: PrecisionRecallConfig

    def scorings(self) -> list[Scoring]:
        """Recall alone."""
        return [self.config.neighbourhoods(self, self.config.seed, "recall")]
