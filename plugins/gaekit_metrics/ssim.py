"""Structural similarity of reconstructions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gaekit.api import ComponentConfig, GaekitError
from gaekit.api.metrics import MeanMetric, implementation, to_uint8

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def ssim(real_3RR: Tensor, fake_3RR: Tensor) -> float:
    """SSIM of two images in [0, 1], float64: eq. 13 of Wang et al. 2004 (doi 10.1109/TIP.2003.819861).

    Mean over channels and over the positions whose whole window lies in the image; weighted, biased moments.
    """
    maps = torch.stack((real_3RR, fake_3RR, real_3RR**2, fake_3RR**2, real_3RR * fake_3RR))
    mean_x, mean_y, square_x, square_y, product = _blur(maps)
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
    structure = (2 * covariance + K2**2) / (variance_x + variance_y + K2**2)
    return float((luminance * structure).mean())


def _blur(maps_NCRR: Tensor) -> Tensor:
    """The Gaussian window's mean at every position where it fits: one pass down, one across."""
    offset = torch.arange(WINDOW, dtype=maps_NCRR.dtype, device=maps_NCRR.device) - WINDOW // 2
    weight = torch.exp(-(offset**2) / (2 * SIGMA**2))
    weight = weight / weight.sum()
    flat = maps_NCRR.flatten(0, 1)[:, None]
    flat = functional.conv2d(functional.conv2d(flat, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))
    return flat.view(*maps_NCRR.shape[:2], *flat.shape[2:])


class Ssim(MeanMetric):
    """Structural similarity in [-1, 1] (Wang et al. 2004): Gaussian window of 11, sigma 1.5, mean over images.

    On uint8 pixels divided by 255, each colour channel by itself: scikit-image's `structural_similarity` with
    `gaussian_weights=True, use_sample_covariance=False, data_range=1`. Raises GaekitError for images below 11 pixels.
    """

    name = "ssim"
    Config = ComponentConfig
    higher = ("ssim",)

    def __init__(self, config: ComponentConfig, *, image_size: int, classes: tuple[str, ...]):
        super().__init__(config, image_size=image_size, classes=classes)
        if image_size < WINDOW:
            raise GaekitError(
                f"metric 'ssim' compares windows of {WINDOW} x {WINDOW} pixels and image.size is {image_size}; "
                f"use larger images or take 'ssim' out of evaluate.metrics"
            )

    def update(self, real_B3RR: Tensor, fake_B3RR: Tensor) -> None:
        """Take in a batch of images and their reconstructions, in [-1, 1].

        One image at a time: the float64 maps of a whole batch would take gigabytes, and the value cannot depend on it.
        """
        real_B3RR, fake_B3RR = (to_uint8(image, self).double() / 255 for image in (real_B3RR, fake_B3RR))
        self.values += [ssim(real, fake) for real, fake in zip(real_B3RR, fake_B3RR, strict=True)]

    def protocol(self) -> dict[str, Any]:
        """The window and constants, and on how many images."""
        return {
            "implementation": implementation(self),
            "pixels": "uint8, floor(127.5 x + 128), divided by 255",
            "window": f"gaussian {WINDOW}, sigma {SIGMA}, only where it fits",
            "k1": K1,
            "k2": K2,
            "covariance": "weighted, biased",
            "reduction": "mean over channels and positions, then over images",
            "n": len(self.values),
        }
