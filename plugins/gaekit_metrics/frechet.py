"""Fréchet distance between real and generated images in a teacher's feature space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Metric, Slot, Teacher
from gaekit_metrics._common import implementation, to_uint8


class Moments:
    """Count, mean and covariance of rows in float64, streamed: batches are merged by their own means and scatters
    (Chan, Golub and LeVeque 1979), which loses no digits where the mean is large beside the spread."""

    def __init__(self, width: int):
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, row_BN: Tensor) -> None:
        """Take in a batch of rows."""
        row_BN = row_BN.to("cpu", torch.float64)
        mean = row_BN.mean(0)
        centred, shift = row_BN - mean, mean - self.mean
        total = self.count + len(row_BN)
        self._scatter += centred.T @ centred + torch.outer(shift, shift) * (self.count * len(row_BN) / total)
        self.mean += shift * (len(row_BN) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (divided by n - 1), as in the usual FID."""
        return self._scatter / (self.count - 1)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """|m - n|^2 + tr A + tr B - 2 tr (A B)^(1/2), float64 (Dowson and Landau 1982).

    The eigenvalues of A B are the squared singular values of A^(1/2) B^(1/2). These are real and not negative, and
    stable where the covariances are singular, which an iterative square root of A B is not.
    """
    root = torch.linalg.svdvals(_square_root(covariance) @ _square_root(other_covariance)).sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * root
    return max(0.0, float(distance))  # rounding may leave -1e-13 between equal sets


def _square_root(covariance: Tensor) -> Tensor:
    value, vector = torch.linalg.eigh(covariance)
    noise = value.max() * len(value) * torch.finfo(value.dtype).eps  # the rounding of a zero, whose root would count
    root: Tensor = (vector * torch.where(value > noise, value, 0.0).sqrt()) @ vector.T
    return root


def singular_warning(count: int, width: int) -> dict[str, str]:
    """{"warning": why} where `count` images leave a covariance of `width` dimensions singular, else nothing."""
    if count > width:
        return {}
    return {
        "warning": f"a side has no more images than the features have dimensions ({width}): its covariance is "
        f"singular, and the distance mostly says how few they are; compare only equal counts"
    }


class FrechetConfig(ComponentConfig):
    """Settings of `frechet`."""

    teacher: Annotated[ComponentConfig, Slot("teacher")] = Field(description="the network whose features are compared")
    grid: PositiveInt = Field(
        default=7,
        description="side of the teacher's feature grid, averaged over; with it goes the size at which it sees images "
        "(7: 224 px for a network of stride 32; a ViT of patch 14 wants 16)",
    )
    split: Literal["train", "validation"] = Field(default="train", description="the real images to compare with")


class Frechet(Metric):
    """Fréchet distance of generated to real images, on a teacher's features averaged over positions.

    The value is named after the teacher (`frechet_efficientnet_lite0`). It is no FID: that one has Inception's
    features, and distances of different features, or of different numbers of images, cannot be compared. Both sides go
    through uint8. Raises GaekitError for fewer than two images on a side.
    """

    name = "frechet"
    Config = FrechetConfig
    needs = "samples"
    config: FrechetConfig

    def __init__(
        self, config: FrechetConfig, *, image_size: int, classes: tuple[str, ...], teacher: Callable[..., Teacher]
    ):
        super().__init__(config, image_size=image_size, classes=classes)
        self.split = config.split
        self.teacher = teacher(grid=config.grid).eval().requires_grad_(False)
        self._real, self._fake = Moments(self.teacher.feature_dim), Moments(self.teacher.feature_dim)

    def reference(self, real_B3RR: Tensor, label_B: Tensor) -> None:
        """Take in real images of `split`, in [-1, 1]."""
        self._real.add(self._features(real_B3RR))

    def update(self, sample_B3RR: Tensor, label_B: Tensor) -> None:
        """Take in generated images, in [-1, 1]."""
        self._fake.add(self._features(sample_B3RR))

    def compute(self) -> dict[str, float]:
        """{frechet_<teacher>: distance >= 0}."""
        for moments, what in ((self._real, "real"), (self._fake, "generated")):
            if moments.count < 2:
                raise GaekitError(
                    f"metric 'frechet' was given {moments.count} {what} image(s); a covariance needs at least 2, "
                    f"and more than {self.teacher.feature_dim} (the width of the features) to be of full rank"
                )
        real, fake = self._real, self._fake
        distance = frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)
        return {f"{self.name}_{self.config.teacher.use}": distance}

    def protocol(self) -> dict[str, Any]:
        """The features and their weights, the counts of both sides, and a warning where these are too few."""
        width = self.teacher.feature_dim
        protocol = {
            "implementation": implementation(self),
            "teacher": self.config.teacher.model_dump(mode="json"),
            "teacher_identity": type(self.teacher).external(self.config.teacher),
            "feature_dim": width,
            "features": f"mean over a grid of {self.config.grid} x {self.config.grid}",
            "pixels": "uint8, floor(127.5 x + 128)",
            "split": self.split,
            "n_reference": self._real.count,
            "n": self._fake.count,
        }
        return protocol | singular_warning(min(self._real.count, self._fake.count), width)

    @torch.no_grad()
    def _features(self, image_B3RR: Tensor) -> Tensor:
        image_B3RR = to_uint8(image_B3RR, self).float() / 127.5 - 1
        pooled_BF: Tensor = self.teacher.to(image_B3RR.device)(image_B3RR).double().mean((2, 3))
        if not torch.isfinite(pooled_BF).all():
            raise GaekitError(
                f"metric 'frechet': teacher '{self.config.teacher.use}' gave features that are not finite"
            )
        return pooled_BF
