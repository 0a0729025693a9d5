"""Monge Inception Distance (MIND, arXiv 2605.06797): a sliced Wasserstein distance on Inception's features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import Interval, Metric
from gaekit.api.metrics import GROUPS, Scoring, Subset, groups_of, jackknife_interval
from gaekit_metrics._sampled import InceptionMetric, InceptionSettings, SubsetSettings, on_one_device, require_two

ROOM = 2**20
"""Numbers of a block of projections: 8 MiB, whatever the number of images."""


def sorted_projections(row_NF: Tensor, direction_PF: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(projections, the rows that they are of), (P', N) each, some directions at a time, sorted along the last."""
    for direction_QF in torch.split(direction_PF, max(1, ROOM // len(row_NF))):
        yield torch.sort(direction_QF @ row_NF.T, dim=1)


def squared_distances(own_PN: Tensor, other_PM: Tensor) -> Tensor:
    """The squared 2-Wasserstein distance (P,) between the N and the M numbers of a row, each sorted, of any two counts:
    the integral of the squared difference of their quantile functions."""
    count, others = own_PN.shape[1], other_PM.shape[1]
    if count == others:
        return (own_PN - other_PM).square().mean(1)
    # of the other quantile function the integral up to each k / N, linear between its steps
    whole = torch.nn.functional.pad(other_PM.cumsum(1), (1, 0)) / others
    place = torch.arange(count + 1, dtype=torch.float64, device=own_PN.device) * (others / count)
    step = place.floor().long().clamp_max(others - 1)
    integral = whole[:, step] + (place - step) * (whole[:, step + 1] - whole[:, step])
    product = (own_PN * integral.diff(dim=1)).sum(1)
    return own_PN.square().mean(1) - 2 * product + other_PM.square().mean(1)


class SlicedInception(Scoring):
    """Gathers features of both sides for the distance of their projections on random directions."""

    real: Subset
    fake: Subset

    def __init__(self, metric: Metric, config: Any):
        self.metric, self.projections, self.seed = metric, config.projections, config.seed
        self.real, self.fake = config.collectors(config.seed)
        self._value = 0.0

    def compute(self) -> dict[str, float]:
        """{mind: distance >= 0}. Raises GaekitError for fewer than two images on a side."""
        require_two(self.metric, self.real, self.fake)
        real, fake, direction = self._drawn()
        sides = zip(sorted_projections(fake, direction), sorted_projections(real, direction), strict=True)
        self._value = self._scaled(sum(squared_distances(own, other).sum() for (own, _), (other, _) in sides), fake)
        return {"mind": self._value}

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of the generated images; none for fewer than 32 of them."""
        real, fake, direction = self._drawn()
        if len(fake) < 2 * GROUPS:
            return {}
        group_N = groups_of(0, len(fake)).to(fake.device)
        sums = torch.zeros(GROUPS, dtype=torch.float64, device=fake.device)
        sides = zip(sorted_projections(fake, direction), sorted_projections(real, direction), strict=True)
        for (own_PN, row_PN), (other_PN, _) in sides:
            of_group = group_N[row_PN]
            for group in range(GROUPS):
                others_PN = own_PN[of_group != group].view(len(own_PN), -1)
                sums[group] += squared_distances(others_PN, other_PN).sum()
        # what pairs of groups tell is too little beside this number's bias: the interval would miss one in eight
        without = [self._scaled(total, fake) for total in sums]
        return {"mind": jackknife_interval(self._value, without, (), f"{len(fake)} images")}

    def protocol(self) -> dict[str, Any]:
        """The directions, and how many images of each side were compared."""
        return {
            "projections": self.projections,
            "projection_seed": self.seed,
            "mind": "3 x dimensions x mean over directions of the squared 2-Wasserstein distance, float64",
            "n_judged": min(len(self.fake), len(self.real)),
        }

    def _drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        """(real, generated) features, as many of each, float64, and directions of length 1. The draws are
        torch-fidelity's for the same seed, of the generated images first."""
        real, fake = on_one_device(self.real, self.fake)
        random, count = torch.Generator().manual_seed(self.seed), min(len(real), len(fake))
        if len(fake) > count:
            fake = fake[torch.randperm(len(fake), generator=random)[:count].to(fake.device)]
        if len(real) > count:
            real = real[torch.randperm(len(real), generator=random)[:count].to(real.device)]
        direction_PF = torch.randn(self.projections, fake.shape[1], generator=random)
        direction_PF = direction_PF / direction_PF.norm(dim=1, keepdim=True)
        return real.double(), fake.double(), direction_PF.double().to(fake.device)

    def _scaled(self, total: Any, fake: Tensor) -> float:
        value: float = 3 * fake.shape[1] * float(total) / self.projections
        return max(0.0, value)


class MindSettings(SubsetSettings):
    """What MIND can be told."""

    projections: PositiveInt = Field(default=1000, description="random directions on which features are compared")


class MindConfig(MindSettings, InceptionSettings):
    """Settings of `mind`."""


class Mind(InceptionMetric):
    """Monge Inception Distance (MIND, arXiv 2605.06797) of generated to real images, on Inception's pooled features.

    The squared 2-Wasserstein distance of their projections on a direction, averaged over random ones, times three times
    the number of dimensions. Of the side with more images as many are drawn as the other has. It supposes no normal
    distribution, and 5,000 images do for it. Raises GaekitError without the network's weights, and for fewer than two
    images on a side.
    """

    name = "mind"
    Config = MindConfig
    config: MindConfig

    def scorings(self) -> list[Scoring]:
        """The distance alone."""
        return [SlicedInception(self, self.config)]
