"""Peak signal-to-noise ratio of reconstructions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gaekit.api import ComponentConfig
from gaekit.api.metrics import CAP_DB, MeanMetric, implementation, psnr, to_uint8


class Psnr(MeanMetric):
    """Peak signal-to-noise ratio, dB: mean over images of each one's PSNR on uint8 pixels.

    Every image's value is that of scikit-image and torchmetrics with a data range of 255, except that it is capped at
    100 dB, where identical images are counted. The mean of PSNRs is not the PSNR of the mean squared error.
    """

    name = "psnr"
    Config = ComponentConfig
    higher = ("psnr",)

    def update(self, real_B3RR: Tensor, fake_B3RR: Tensor) -> None:
        """Take in a batch of images and their reconstructions, in [-1, 1]."""
        self.values += psnr(to_uint8(real_B3RR, self), to_uint8(fake_B3RR, self))

    def protocol(self) -> dict[str, Any]:
        """How it was computed, on how many images, and how many of them reached the cap."""
        return {
            "implementation": implementation(self),
            "pixels": "uint8, floor(127.5 x + 128)",
            "reduction": "mean over images of the PSNR of each",
            "data_range": 255,
            "cap_db": CAP_DB,
            "capped": sum(value >= CAP_DB for value in self.values),
            "n": len(self.values),
        }
