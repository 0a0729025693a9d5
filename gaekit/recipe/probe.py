"""Sections of probes: what looks at a training while it runs, and changes nothing of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gaekit.api import ComponentConfig, Slot
from gaekit.recipe.section import Count, Section


class HeldOutImages(Section):
    """Images of the held-out split, the same at every probe."""

    images: Count = Field(default=2048, description="how many, all where there are fewer")


class HeldOutLoss(HeldOutImages):
    """The denoiser's loss on held-out images, at times and with noise that are the same at every probe."""

    times: Annotated[int, Field(gt=0, le=1000)] = Field(
        default=8, description="at how many times each, in the middles of so many equal parts of [0, 1]"
    )


class Probe(Section):
    """Base of the probes of a training; there is one at its last step too."""

    every: Count = Field(default=5000, description="steps between probes")


class AutoencoderProbe(Probe):
    """Held-out images through the autoencoder that trains, by its weights and by their average, without the noise that
    it trains with and under it."""

    loss: HeldOutImages | None = Field(
        default=HeldOutImages(), description="the training's terms but the adversary's; null: none"
    )
    metrics: Annotated[tuple[ComponentConfig, ...], Slot("metric")] = Field(
        default=(ComponentConfig(use="psnr"),), description="of pairs: images and their reconstructions"
    )
    count: Count = Field(default=2048, description="how many held-out images the metrics see, all if there are fewer")


class DiffusionProbe(Probe):
    """The denoiser that trains, by its weights and by their average, on held-out images; and samples of it."""

    loss: HeldOutLoss | None = Field(default=HeldOutLoss(), description="the training's loss; null: none")
    metrics: Annotated[tuple[ComponentConfig, ...], Slot("metric")] = Field(
        default=(), description="of samples, drawn by the averaged weights"
    )
    count: Count = Field(default=5000, description="how many samples the metrics see")
    sampler: Annotated[ComponentConfig | None, Slot("sampler")] = Field(
        default=None, description="what draws them; null: that of `sample`, or 50 steps of euler (path ddpm: ddim)"
    )
