"""gaekit's metrics: numbers about reconstructions, samples and latents, each with its protocol."""

from collections.abc import Iterable

from gaekit.api import Component, hookimpl
from gaekit_metrics.class_accuracy import ClassAccuracy
from gaekit_metrics.frechet import Frechet
from gaekit_metrics.linear_probe import LinearProbe
from gaekit_metrics.psnr import Psnr
from gaekit_metrics.ssim import Ssim


@hookimpl
def gaekit_components() -> Iterable[type[Component]]:
    """The metrics."""
    return (Psnr, Ssim, Frechet, ClassAccuracy, LinearProbe)
