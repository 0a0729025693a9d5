"""Kernel Inception Distance (KID, arXiv 1801.01401)."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from gaekit.api import GaekitError, Interval, Metric
from gaekit.api.metrics import GROUPS, Scoring, Subset, groups_of, jackknife_interval
from gaekit_metrics._sampled import InceptionMetric, InceptionSettings, SubsetSettings, on_one_device
from gaekit_metrics.mmd import KernelSums, cubic, kernel_sums


class KernelInception(Scoring):
    """Gathers features of both sides for the discrepancy of a cubic polynomial kernel, a mean over drawn subsets."""

    real: Subset
    fake: Subset

    def __init__(self, metric: Metric, config: Any):
        self.metric, self.subsets, self.size, self.seed = metric, config.subsets, config.subset_size, config.seed
        self.real, self.fake = config.collectors(config.seed)
        self.fewest = self.size
        self._sums: list[KernelSums] = []

    def compute(self) -> dict[str, float]:
        """{kid: mean over subsets, which may be below 0}. Raises GaekitError where a side has fewer images than a
        subset."""
        for side, what in ((self.real, "real"), (self.fake, "generated")):
            if len(side) < self.size:
                raise GaekitError(
                    f"metric '{self.metric.name}' draws subsets of subset_size = {self.size}, and was given "
                    f"{len(side)} {what} image(s); give it more, or lower `subset_size`"
                )
        real, fake = on_one_device(self.real, self.fake)
        group_N = groups_of(0, len(fake)).to(fake.device)
        # RandomState's stream is frozen by numpy; with this seed and these calls the subsets are also torch-fidelity's.
        random = np.random.RandomState(self.seed)
        self._sums = []
        for _ in range(self.subsets):
            own, others = (random.choice(len(side), self.size, replace=False) for side in (fake, real))
            self._sums.append(kernel_sums(fake[own], real[others], cubic, group_N[own]))
        return {"kid": self._value()}

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of the generated images, within each subset; none for fewer than 32 in one.
        Subsets overlap, so that their spread tells nothing of other images."""
        if self.size < 2 * GROUPS or min(int(sums.counts_G.sum() - sums.counts_G.max()) for sums in self._sums) < 2:
            return {}
        single = [self._value(group) for group in range(GROUPS)]
        pairs = [self._value(group, group + 1) for group in range(0, GROUPS, 2)]
        return {
            "kid": jackknife_interval(self._value(), single, pairs, f"{len(self.fake)} images", least=-float("inf"))
        }

    def protocol(self) -> dict[str, Any]:
        """The kernel, subsets, seed, how many images of each side they were drawn from, and the spread over them (null
        before `compute`)."""
        spread = statistics.pstdev(sums.unbiased() for sums in self._sums) if self._sums else None
        return {
            "kernel": "(x . y / dimensions + 1)^3",
            "subsets": self.subsets,
            "subset_size": self.size,
            "subset_seed": self.seed,
            "n_drawn_from": len(self.fake),
            "n_reference_drawn_from": len(self.real),
            "kid_std": spread,
            "kid": "mean over subsets of the unbiased estimate of MMD^2, float64",
        }

    def _value(self, *left_out: int) -> float:
        return statistics.fmean(sums.unbiased(*left_out) for sums in self._sums)


class KidSettings(SubsetSettings):
    """What KID can be told."""

    subsets: PositiveInt = Field(
        default=100, description="how many subsets are drawn, whose discrepancies are averaged"
    )
    subset_size: int = Field(default=1000, ge=2, description="images of a subset, of each side")


class KidConfig(KidSettings, InceptionSettings):
    """Settings of `kid`."""


class Kid(InceptionMetric):
    """Kernel Inception Distance (KID, arXiv 1801.01401) of generated to real images.

    The squared maximum mean discrepancy of Inception's pooled features by a cubic polynomial kernel, averaged over 100
    subsets of 1,000 images as in torch-fidelity. Without bias, so that fewer images do not raise it, and a little below
    0 at times. Raises GaekitError without the network's weights, and for fewer images than a subset has.
    """

    name = "kid"
    Config = KidConfig
    config: KidConfig

    def scorings(self) -> list[Scoring]:
        """The distance alone."""
        return [KernelInception(self, self.config)]
