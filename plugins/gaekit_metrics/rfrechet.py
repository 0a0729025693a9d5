"""Fréchet distance between images and their reconstructions in a teacher's feature space."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from gaekit.api.metrics import Scoring
from gaekit_metrics._sampled import PairedMetric
from gaekit_metrics._teachers import FEATURES, TeacherMetric, TeacherSettings, Which
from gaekit_metrics.fid import FrechetInception


class RfrechetConfig(TeacherSettings):
    """Settings of `rfrechet`."""

    grid: PositiveInt = Field(
        default=7, description="side of the teacher's feature grid, averaged over, as of the metric `frechet`"
    )
    features: Which = Field(default="mean", description=FEATURES)


class Rfrechet(PairedMetric, TeacherMetric):
    """Fréchet distance of reconstructions to the held-out images that they are of, on a teacher's features.

    The value is named after the teacher (`rfrechet_efficientnet_lite0`). It is to rFID what `frechet` is to FID: for
    where Inception's weights are not. Both sides hold the same images, so it cannot be compared with a distance of
    samples. Raises GaekitError for fewer than two images.
    """

    name = "rfrechet"
    Config = RfrechetConfig
    config: RfrechetConfig

    def scorings(self) -> list[Scoring]:
        """The distance under its name."""
        return [FrechetInception(self, self.extractor.width, None, self.number, paired=True)]
