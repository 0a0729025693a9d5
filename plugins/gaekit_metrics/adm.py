"""FID, sFID, Inception Score, precision and recall together, from one pass of the network over each image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gaekit.api.metrics import Scoring
from gaekit_metrics._sampled import InceptionMetric, InceptionSettings
from gaekit_metrics.fid import FrechetInception
from gaekit_metrics.inception_score import Inceptions, InceptionScoreSettings
from gaekit_metrics.kid import KernelInception, KidSettings
from gaekit_metrics.mind import MindSettings, SlicedInception
from gaekit_metrics.precision_recall import PrecisionRecallSettings

Score = Literal["fid", "sfid", "kid", "mind", "inception_score", "precision", "recall"]


class AdmConfig(InceptionScoreSettings, PrecisionRecallSettings, KidSettings, MindSettings, InceptionSettings):
    """Settings of `adm`."""

    scores: Annotated[tuple[Score, ...], Field(min_length=1)] = Field(
        default=("fid", "sfid", "inception_score", "precision", "recall"), description="which numbers"
    )


class Adm(InceptionMetric):
    """FID, sFID, Inception Score, precision and recall from one pass over the images: all of ADM's evaluation.

    The same as the five metrics of these names, at the cost of one; and `kid` and `mind`, where `scores` has them.
    ADM's evaluator itself, which reads a run's samples.npz, takes distances in float16 where these are finite, here
    float64. Where `reference` is an .npz with statistics and images, FID and sFID take the statistics, the others the
    images. Raises GaekitError as those metrics do.
    """

    name = "adm"
    Config = AdmConfig
    config: AdmConfig

    @classmethod
    def spatial(cls, config: AdmConfig) -> bool:
        """For sFID."""
        return "sfid" in config.scores

    def scorings(self) -> list[Scoring]:
        """Those of `scores`."""
        config, found = self.config, list[Scoring]()
        if "fid" in config.scores:
            found.append(FrechetInception(self, self.extractor.width, self.file))
        if "sfid" in config.scores:
            found.append(FrechetInception(self, self.extractor.spatial, self.file, "sfid", spatial=True))
        if "kid" in config.scores:
            found.append(KernelInception(self, config))
        if "mind" in config.scores:
            found.append(SlicedInception(self, config))
        if "inception_score" in config.scores:
            found.append(Inceptions(self, config.splits, config.seed))
        if names := [name for name in ("precision", "recall") if name in config.scores]:
            found.append(config.neighbourhoods(self, config.seed, *names))
        return found
