"""Fréchet distance between real and generated images in a teacher's feature space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Interval, Metric, Slot, Teacher
from gaekit.api.metrics import (
    GroupedMoments,
    Moments,
    frechet_distance,
    frechet_interval,
    implementation,
    singular_warning,
    to_uint8,
)


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
        self._real, self._fake = Moments(self.teacher.feature_dim), GroupedMoments(self.teacher.feature_dim)
        self._value = 0.0

    def reference(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of real images of `split`."""
        self._real.add(feature_BF)

    def reference_state(self) -> dict[str, Tensor]:
        """The moments of the real images' features."""
        return self._real.state()

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Take over kept moments."""
        self._real.load(state)

    def update(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of generated images."""
        self._fake.add(feature_BF)

    def compute(self) -> dict[str, float]:
        """{frechet_<teacher>: distance >= 0}."""
        for moments, what in ((self._real, "real"), (self._fake, "generated")):
            if moments.count < 2:
                raise GaekitError(
                    f"metric 'frechet' was given {moments.count} {what} image(s); a covariance needs at least 2, "
                    f"and more than {self.teacher.feature_dim} (the width of the features) to be of full rank"
                )
        real, fake = self._real, self._fake
        self._value = frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)
        return {f"{self.name}_{self.config.teacher.use}": self._value}

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of the generated images; none for fewer than 32."""
        real = self._real.mean, self._real.covariance
        interval = frechet_interval(self._value, real, self._fake, "images")
        return {} if interval is None else {f"{self.name}_{self.config.teacher.use}": interval}

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
    def extract(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> their features (B, F), float64. Raises GaekitError where they are not finite."""
        image_B3RR = to_uint8(image_B3RR, self).float() / 127.5 - 1
        pooled_BF: Tensor = self.teacher.to(image_B3RR.device)(image_B3RR).double().mean((2, 3))
        if not torch.isfinite(pooled_BF).all():
            raise GaekitError(
                f"metric 'frechet': teacher '{self.config.teacher.use}' gave features that are not finite"
            )
        return pooled_BF
