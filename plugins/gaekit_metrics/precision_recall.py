"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import GaekitError, Metric
from gaekit.api.metrics import ReferenceSettings, Scoring, Subset
from gaekit_metrics._sampled import InceptionMetric, InceptionSettings

BLOCK = 4096
"""Rows of a distance matrix at once, and columns: 128 MiB, whatever the number of images."""


def squared_distances(row_NF: Tensor, other_MF: Tensor) -> Tensor:
    """Squared Euclidean distances (N, M), float64; those within the rounding of equal rows are exactly 0."""
    row_NF, other_MF = row_NF.double(), other_MF.double()
    size = row_NF.square().sum(1)[:, None] + other_MF.square().sum(1)
    distance = torch.addmm(size, row_NF, other_MF.T, alpha=-2)
    return distance.masked_fill_(distance <= size * (row_NF.shape[1] * torch.finfo(torch.float64).eps), 0.0)


def squared_radii(row_NF: Tensor, k: int, block: int = BLOCK) -> Tensor:
    """Squared distance (N,) of each row to its k-th nearest other one, float64."""
    found = []
    for rows in torch.split(row_NF, block):
        nearest = rows.new_empty(len(rows), 0, dtype=torch.float64)
        for others in torch.split(row_NF, block):
            distance = torch.cat([nearest, squared_distances(rows, others)], 1)
            nearest = distance.topk(min(k + 1, distance.shape[1]), largest=False).values
        found.append(nearest[:, -1])  # the nearest of all is the row itself
    return torch.cat(found)


def share_inside(row_NF: Tensor, centre_MF: Tensor, radius_M: Tensor, block: int = BLOCK) -> float:
    """Share of rows inside at least one ball around a centre, given squared radii (eq. 1)."""
    inside = 0
    for rows in torch.split(row_NF, block):
        found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for centres, radii in zip(torch.split(centre_MF, block), torch.split(radius_M, block), strict=True):
            found |= (squared_distances(rows, centres) <= radii).any(1)
        inside += int(found.sum())
    return inside / len(row_NF)


class Neighbourhoods(Scoring):
    """Gathers features of both sides for precision, recall, or both."""

    real: Subset
    fake: Subset

    def __init__(self, metric: Metric, names: Sequence[str], *, k: int, limit: int, reference_limit: int, seed: int):
        self.metric, self.names, self.k, self.seed = metric, names, k, seed
        self.real, self.fake = Subset(reference_limit, seed), Subset(limit, seed)

    def compute(self) -> dict[str, float]:
        """{precision, recall: share in [0, 1]}, those asked for. Raises GaekitError for k or fewer images on a side."""
        for side, what in ((self.real, "real"), (self.fake, "generated")):
            if len(side) <= self.k:
                raise GaekitError(
                    f"metric '{self.metric.name}' judges {len(side)} {what} image(s) by their k = {self.k} nearest; "
                    f"it needs at least {self.k + 1}"
                )
        real, fake = self._rows()
        found = {}
        if "precision" in self.names:
            found["precision"] = share_inside(fake, real, squared_radii(real, self.k))
        if "recall" in self.names:
            found["recall"] = share_inside(real, fake, squared_radii(fake, self.k))
        return found

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

    def _rows(self) -> tuple[Tensor, Tensor]:
        """(real, generated), where the images were, if that is CUDA: other accelerators know no float64."""
        device = self.fake.device if self.fake.device.type == "cuda" else torch.device("cpu")
        return self.real.rows().to(device), self.fake.rows().to(device)


class PrecisionRecallSettings(ReferenceSettings):
    """What precision and recall can be told."""

    k: PositiveInt = Field(default=3, description="a ball around an image reaches to its k-th nearest neighbour")
    limit: PositiveInt = Field(default=50_000, description="generated images judged, at most, drawn by the seed")
    reference_limit: PositiveInt = Field(default=10_000, description="real images judged, at most, drawn by the seed")

    def neighbourhoods(self, metric: Metric, seed: int, *names: str) -> Neighbourhoods:
        """The scoring of `names`."""
        limits = {"limit": self.limit, "reference_limit": self.reference_limit}
        return Neighbourhoods(metric, names, k=self.k, seed=seed, **limits)


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
