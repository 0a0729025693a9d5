"""Fréchet distance between real and generated images in a teacher's feature space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Interval, Metric, Slot, Teacher
from gaekit.api.metrics import (
    FeatureSettings,
    GroupedMoments,
    Moments,
    frechet_distance,
    frechet_interval,
    implementation,
    singular_warning,
    to_uint8,
)
from gaekit_metrics._teachers import FEATURES, TeacherFeatures, Which, named_after

PARTS = {
    "reconstructed": "real images to their reconstructions from the latent's mean, 8 bit",
    "from_reconstructions": "these reconstructions to the samples",
}
"""What the parts compare, for their protocol."""


class FrechetConfig(FeatureSettings):
    """Settings of `frechet`."""

    teacher: Annotated[ComponentConfig, Slot("teacher")] = Field(description="the network whose features are compared")
    grid: PositiveInt = Field(
        default=7,
        description="side of the teacher's feature grid, averaged over; with it goes the size at which it sees images "
        "(7: 224 px for a network of stride 32; a ViT of patch 14 wants 16)",
    )
    split: Literal["train", "validation"] = Field(default="train", description="the real images to compare with")
    features: Which = Field(default="mean", description=FEATURES)
    parts: bool = Field(
        default=False,
        description="also how far the autoencoder's reconstructions of the real images are from these, and how far the "
        "samples are from the reconstructions",
    )


class Frechet(Metric):
    """Fréchet distance of generated to real images, on a teacher's features averaged over positions or its class token.

    The value is named after the teacher (`frechet_efficientnet_lite0`, `frechet_dinov2_class_token`), then by `suffix`.
    It is no FID: that one has Inception's features, and distances of different features, or of different numbers of
    images, cannot be compared. Both sides go through uint8. FD-DINOv2 (arXiv 2306.04675) is that on the class token of
    teacher `dinov2` with `positions: dinov2`, grid 16.

    With `parts` there are two more: `..._reconstructed`, of the real images to what the run's autoencoder makes of
    them, which is what the decoder loses, and `..._from_reconstructions`, of these to the generated images, which is
    what the denoiser misses. They do not add up to the whole: the root of the distance, not the distance, obeys the
    triangle's inequality. Raises GaekitError for fewer than two images on a side.
    """

    name = "frechet"
    Config = FrechetConfig
    revision = 3  # blocks of one size
    needs = "samples"
    config: FrechetConfig

    def __init__(
        self, config: FrechetConfig, *, image_size: int, classes: tuple[str, ...], teacher: Callable[..., Teacher]
    ):
        super().__init__(config, image_size=image_size, classes=classes)
        self.split, self.reconstructions = config.split, config.parts
        owner = f"metric '{self.name}'"
        self.extractor = TeacherFeatures(teacher(grid=config.grid), config.teacher, config.features, owner)
        moments, width = GroupedMoments if config.parts else Moments, self.extractor.width
        self._real, self._rebuilt, self._fake = moments(width), moments(width), GroupedMoments(width)
        self._numbers: dict[str, tuple[float, Interval | None]] = {}

    @property
    def fewest(self) -> int:
        """So many that a covariance of the features is of full rank."""
        return self.extractor.width + 1

    def reference(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of real images of `split`."""
        self._real.add(feature_BF)

    def reference_state(self) -> dict[str, Tensor]:
        """The moments of the real images' features."""
        return self._real.state()

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Take over kept moments."""
        self._real.load(state)

    def reference_reconstruction(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of the reconstructions of real images."""
        self._rebuilt.add(feature_BF)

    def reconstruction_state(self) -> dict[str, Tensor]:
        """The moments of the reconstructions' features."""
        return self._rebuilt.state()

    def load_reconstruction(self, state: Mapping[str, Tensor]) -> None:
        """Take over kept moments of reconstructions."""
        self._rebuilt.load(state)

    def ready(self, device: torch.device) -> None:
        """With `parts`, compare the two references, once for all series of samples."""
        if isinstance(self._real, GroupedMoments) and isinstance(self._rebuilt, GroupedMoments):
            value = self._distance(self._real, self._rebuilt, "reconstructed")
            interval = frechet_interval(value, self._real, self._rebuilt, "pairs of images")
            self._numbers[self._named("_reconstructed")] = value, interval
            self._real, self._rebuilt = self._real.plain(), self._rebuilt.plain()  # the groups have done their work

    def update(self, feature_BF: Tensor, label_B: Tensor) -> None:
        """Take in features of generated images."""
        self._fake.add(feature_BF)

    def compute(self) -> dict[str, float]:
        """{frechet_<teacher>: distance >= 0}, and the two parts where they are wanted."""
        self._numbers[self._named("")] = self._to_samples(self._real)
        if self.config.parts:
            self._numbers[self._named("_from_reconstructions")] = self._to_samples(self._rebuilt)
        return {name: value for name, (value, _) in sorted(self._numbers.items())}

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of the generated images, and of `_reconstructed` over groups of pairs of an
        image and its reconstruction; none for fewer than 32."""
        return {name: interval for name, (_, interval) in self._numbers.items() if interval is not None}

    def protocol(self) -> dict[str, Any]:
        """The features and their weights, the counts of both sides, and a warning where these are too few."""
        width = self.extractor.width
        protocol = {
            "implementation": implementation(self),
            **self.extractor.protocol(),
            "pixels": "uint8, floor(127.5 x + 128)",
            "split": self.split,
            "n_reference": self._real.count,
            "n": self._fake.count,
        }
        if self.config.teacher.use == "dinov2" and self.config.features == "class_token":
            protocol["differs_from_dgm_eval"] = self._beside_dgm_eval()
        if self.config.parts:
            protocol["parts"] = PARTS | {"n_reconstructions": self._rebuilt.count}
        return protocol | singular_warning(min(self._real.count, self._fake.count), width)

    def _beside_dgm_eval(self) -> list[str]:
        """What a distance on DINOv2's class token has otherwise than dgm-eval's FD-DINOv2."""
        teacher, side = self.config.teacher.model_dump(), self.extractor.teacher.input_size
        told = {
            f"model {teacher['size']}, there large": teacher["size"] != "large",
            "register tokens, there none": teacher["registers"],
            "weights of another source": teacher["weights"] != "hub",
            f"images seen at {side} px, there at 224": side != 224,
            "positions resampled by timm, there by DINOv2's code": teacher["positions"] != "dinov2",
            "resized by Pillow's bicubic kernel in float32, there in 8 bit": side != self.image_size,
        }
        return [difference for difference, applies in told.items() if applies]

    def _named(self, part: str) -> str:
        suffix = f"_{self.config.suffix}" if self.config.suffix else ""
        return f"{self.name}_{named_after(self.config)}{suffix}{part}"

    def _to_samples(self, reference: Moments) -> tuple[float, Interval | None]:
        """The distance of a reference to the generated images, with its interval."""
        value = self._distance(reference, self._fake, "generated")
        return value, frechet_interval(value, (reference.mean, reference.covariance), self._fake, "images")

    def _distance(self, real: Moments, fake: Moments, what: str) -> float:
        for moments, side in ((real, "real"), (fake, what)):
            if moments.count < 2:
                raise GaekitError(
                    f"metric 'frechet' was given {moments.count} {side} image(s); a covariance needs at least 2, "
                    f"and more than {self.extractor.width} (the width of the features) to be of full rank"
                )
        return frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)

    def extract(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> their features (B, F), float64. Raises GaekitError where they are not finite."""
        feature_BF = self.extractor(to_uint8(image_B3RR, self)).feature_BF
        if not torch.isfinite(feature_BF).all():
            raise GaekitError(
                f"metric 'frechet': teacher '{self.config.teacher.use}' gave features that are not finite"
            )
        return feature_BF
