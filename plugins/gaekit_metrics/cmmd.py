"""CMMD (arXiv 2401.09603): the discrepancy of CLIP's embeddings under a Gaussian kernel, or of another teacher's."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from gaekit.api import Interval
from gaekit.api.metrics import GROUPS, Scoring, Subset, groups_of, jackknife_interval
from gaekit_metrics._sampled import SubsetSettings, on_one_device, require_two
from gaekit_metrics._teachers import TeacherMetric, TeacherSettings
from gaekit_metrics.mmd import KernelSums, gaussian, kernel_sums

SCALE = 1000
"""By which the authors multiply, so that people can read it."""


class KernelEmbedding(Scoring):
    """Gathers embeddings of both sides, brings each to length 1, and compares them by a Gaussian kernel."""

    real: Subset
    fake: Subset

    def __init__(self, metric: TeacherMetric, config: Any):
        self.metric, self.sigma, self.seed = metric, config.sigma, config.seed
        self.real, self.fake = config.collectors(config.seed)
        self._sums: KernelSums | None = None

    def compute(self) -> dict[str, float]:
        """{cmmd_<teacher>: 1000 MMD^2 >= 0}. Raises GaekitError for fewer than two images on a side."""
        require_two(self.metric, self.real, self.fake)
        unit = torch.nn.functional.normalize
        real, fake = (unit(rows.double(), dim=1) for rows in on_one_device(self.real, self.fake))
        self._sums = kernel_sums(fake, real, gaussian(self.sigma), groups_of(0, len(fake)).to(fake.device))
        return {self.metric.number: self._value(self._sums)}

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of the generated images; none for fewer than 32."""
        sums = self._sums
        if sums is None or len(self.fake) < 2 * GROUPS:
            return {}
        single = [self._value(sums, group) for group in range(GROUPS)]
        # what pairs of groups tell is too little beside this number's bias: the interval would miss one in eight
        interval = jackknife_interval(self._value(sums), single, (), f"{len(self.fake)} images")
        return {self.metric.number: interval}

    def protocol(self) -> dict[str, Any]:
        """The kernel, and how many images of each side were compared."""
        return {
            "kernel": f"exp(-|x - y|^2 / 2 sigma^2), sigma {self.sigma:g}, of embeddings of length 1",
            "estimate": f"{SCALE} MMD^2, with the pairs of an image with itself, float64",
            "n_judged": len(self.fake),
            "n_reference_judged": len(self.real),
            "subset_seed": self.seed,
        }

    def _value(self, sums: KernelSums, *left_out: int) -> float:
        return max(0.0, SCALE * sums.biased(*left_out))  # rounding may leave -1e-13 between equal sets


class CmmdConfig(SubsetSettings, TeacherSettings):
    """Settings of `cmmd`."""

    reference_limit: PositiveInt = Field(default=50_000, description="real images judged, at most, drawn by the seed")
    sigma: PositiveFloat = Field(default=10.0, description="width of the kernel, for embeddings of length 1")
    seed: NonNegativeInt = Field(default=2020, description="of drawn subsets")


class Cmmd(TeacherMetric):
    """CMMD (arXiv 2401.09603) of generated to real images, on a teacher's class token; named after the teacher.

    The squared maximum mean discrepancy by a Gaussian kernel, times 1,000. It is the published CMMD for the teacher
    `clip` with model ViT-L-14-336 and grid 24. It supposes no normal distribution, and needs fewer images than a
    Fréchet distance. Raises GaekitError for a teacher without such an embedding, and for fewer than two images.
    """

    name = "cmmd"
    Config = CmmdConfig
    config: CmmdConfig

    def scorings(self) -> list[Scoring]:
        """The discrepancy alone."""
        return [KernelEmbedding(self, self.config)]
