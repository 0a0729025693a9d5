"""Fréchet Inception distance of samples (FID, arXiv 1706.08500) and of reconstructions (rFID)."""

from __future__ import annotations

from typing import Any

from gaekit.api import GaekitError, Interval, Metric
from gaekit.api.metrics import (
    FeatureMoments,
    GroupedFeatureMoments,
    GroupedMoments,
    Reference,
    ReferenceSettings,
    Scoring,
    Statistics,
    frechet_distance,
    frechet_interval,
    singular_warning,
)
from gaekit_metrics._sampled import InceptionMetric, InceptionSettings, PairedMetric


class FrechetInception(Scoring):
    """Gathers the moments of both sides, or takes those of the real one from statistics, and compares them. `paired`
    where both sides are of the same images, so that an interval leaves out both of a pair; `spatial` for spatial
    features in place of the pooled ones."""

    real: FeatureMoments | None
    fake: GroupedFeatureMoments

    def __init__(
        self,
        metric: Metric,
        width: int,
        file: Reference | None,
        name: str = "fid",
        *,
        paired: bool = False,
        spatial: bool = False,
    ):
        self.metric, self.width, self.name = metric, width, name
        self.fewest = width + 1
        self.statistics: Statistics | None = None
        self.real = (GroupedFeatureMoments if paired else FeatureMoments)(width, spatial=spatial)
        self.fake = GroupedFeatureMoments(width, spatial=spatial)
        self._value = 0.0
        # ADM's evaluator, too, takes these before the images of a file
        if file is not None and (file.has_spatial_statistics if spatial else file.has_statistics):
            self.statistics, self.real = file.statistics(width, spatial=spatial), None

    def compute(self) -> dict[str, float]:
        """{fid: distance >= 0}. Raises GaekitError for fewer than two images on a side."""
        for moments, what in ((self.real, "real"), (self.fake, "generated")):
            if moments is not None and moments.count < 2:
                raise GaekitError(
                    f"metric '{self.metric.name}' was given {moments.count} {what} image(s); a covariance needs at "
                    f"least 2, and more than {self.width} (the width of the features) to be of full rank"
                )
        real: Any = self.statistics or self.real
        self._value = frechet_distance(real.mean, real.covariance, self.fake.mean, self.fake.covariance)
        return {self.name: self._value}

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of the generated images, or of pairs; none for fewer than 32."""
        real: Any = self.statistics or self.real
        if isinstance(real, GroupedMoments):
            interval = frechet_interval(self._value, real, self.fake, "pairs of images")
        else:
            interval = frechet_interval(self._value, (real.mean, real.covariance), self.fake, "images")
        return {} if interval is None else {self.name: interval}

    def protocol(self) -> dict[str, Any]:
        """Where the real statistics are from, how the trace is computed, and a warning where images are too few."""
        counts = [moments.count for moments in (self.real, self.fake) if moments is not None]
        return {
            "spatial_statistics" if self.fake.spatial else "statistics": "those of the file"
            if self.statistics
            else "computed from the reference's images",
            self.name: "trace from singular values, float64, unbiased covariances",
            **singular_warning(min(counts), self.width),
        }


class FidConfig(ReferenceSettings, InceptionSettings):
    """Settings of `fid`."""


class Fid(InceptionMetric):
    """Fréchet Inception distance (FID, arXiv 1706.08500) of generated to real images.

    On the pooled features of torch-fidelity's Inception, whose weights and resize are those of the original. Compare
    only numbers of the same reference and count. Raises GaekitError without the weights, for a reference that does not
    fit, and for fewer than two images on a side.
    """

    name = "fid"
    Config = FidConfig
    config: FidConfig

    def scorings(self) -> list[Scoring]:
        """The distance alone."""
        return [FrechetInception(self, self.extractor.width, self.file)]


class SfidConfig(ReferenceSettings, InceptionSettings):
    """Settings of `sfid`."""


class Sfid(InceptionMetric):
    """Fréchet distance on Inception's spatial features (sFID, arXiv 2103.03841): more about layout than `fid`.

    On the first 7 channels of 17 x 17 positions of `mixed_6/conv`, 2,023 numbers, as ADM's evaluator has them (arXiv
    2105.05233). Of an .npz of ADM it takes `mu_s` and `sigma_s`, else computes them of images. Raises GaekitError as
    `fid` does.
    """

    name = "sfid"
    Config = SfidConfig
    config: SfidConfig

    @classmethod
    def spatial(cls, config: Any) -> bool:
        """Yes."""
        return True

    def scorings(self) -> list[Scoring]:
        """The distance alone."""
        return [FrechetInception(self, self.extractor.spatial, self.file, "sfid", spatial=True)]


class RfidConfig(InceptionSettings):
    """Settings of `rfid`."""


class Rfid(PairedMetric, InceptionMetric):
    """Fréchet Inception distance of the held-out split's reconstructions to the same images (rFID).

    Both sides hold the same images, so it cannot be compared with a FID of samples. Raises GaekitError without the
    weights, and for fewer than two images.
    """

    name = "rfid"
    Config = RfidConfig
    config: RfidConfig

    def scorings(self) -> list[Scoring]:
        """The distance under its name."""
        return [FrechetInception(self, self.extractor.width, None, self.name, paired=True)]
