"""The latent space: its channels, its spectra, what lies between two images, and what noise does to one."""

from __future__ import annotations

import torch
from markupsafe import Markup
from torch import Tensor

from gaekit.api.metrics import (
    channel_variances,
    effective_rank,
    noise_of,
    psnr,
    radial_spectrum,
    root_mean_square,
)
from gaekit.data.images import to_float
from gaekit.errors import GaekitError
from gaekit.runs.page import Series, curves_svg, definitions, figure, gallery
from gaekit.runs.report.measures import spread
from gaekit.runs.report.parts import heading, human, joined, note, percent, plots, strips
from gaekit.runs.report.source import Source

CHANNELS, IMAGES, STEPS = 16, 4, 7
SIGMAS = (0.0, 0.1, 0.2, 0.5, 1.0)
NOISY = 64


def latent(source: Source) -> Markup:
    """All about the latent."""
    maps, whose = source.latents
    return joined([
        note(f"Numbers over {whose}; the latent is the mean that the regularizer gives."),
        _numbers(source, maps),
        plots(_spectra(source, maps)),
        heading("Channels"),
        _channels(source, maps),
        heading("From one image to another"),
        _interpolation(source, maps),
        heading("Decoding under noise"),
        _noise(source, maps),
    ])  # fmt: skip


def _numbers(source: Source, maps: Tensor) -> Markup:
    _, channels, grid, _ = maps.shape
    rank, std = effective_rank(channel_variances(maps)), maps.double().std((0, 2, 3), correction=0)
    pixels, numbers = 3 * source.size**2, channels * grid**2
    size = f"{channels} channels on a {grid} × {grid} grid: {numbers:,} numbers"
    told = "exp of the entropy of the shares of variance of the channels’ principal directions"
    return definitions(
        [
            ("Size", f"{size} for the {pixels:,} of an image, 1 for {pixels / numbers:.3g}"),
            ("Effective rank", f"{rank:.3g} of {channels} ({percent(rank / channels)}): {told}"),
            ("Standard deviation of a channel", f"{human(float(std.min()))} to {human(float(std.max()))}"),
        ]
    )


def _spectra(source: Source, maps: Tensor) -> list[Markup]:
    variances = channel_variances(maps)
    total = max(float(variances.sum()), 1e-30)
    share = [max(float(value) / total, 1e-12) for value in variances]
    numbers = list(range(1, len(share) + 1))
    alike = Series("all alike", numbers, [1 / len(share)] * len(share), colour=6, dashed=True)
    directions = curves_svg(
        [Series("latents", numbers, share), alike],
        title="Share of variance of the principal directions of channels",
        x_label="direction, greatest first",
        log_y=True,
    )  # fmt: skip
    cycles, power = radial_spectrum(maps)
    series = [Series("latents", cycles, power)]
    try:
        images = source.held_out.pixels
    except GaekitError:
        pass
    else:
        series.append(Series("images", *radial_spectrum(to_float(images))))
    longest = max((one.x for one in series), key=len)
    series.append(Series("white noise", longest, [1.0] * len(longest), colour=6, dashed=True))
    radial = curves_svg(
        series,
        title="Power spectrum, averaged over directions",
        x_label="cycles along a side",
        log_x=len(longest) > 2,
        log_y=True,
        caption="Channels with variance 1, so that white noise has 1 everywhere.",
    )
    return [directions, radial] if len(numbers) > 1 else [radial]


def _channels(source: Source, maps: Tensor) -> Markup:
    """Each image's channels as grey maps beside what it is decoded to."""
    chosen = maps[spread(len(maps), IMAGES)]
    count = min(CHANNELS, maps.shape[1])
    mean, std = maps.mean((0, 2, 3)), maps.std((0, 2, 3)).clamp_min(1e-12)
    grey = ((chosen - mean[:, None, None]) / std[:, None, None]).clamp(-2.5, 2.5) / 2.5
    pixels = (127.5 + 127.5 * grey[:, :count]).round().to(torch.uint8)
    rows = []
    for number, (image, channels) in enumerate(zip(source.decode(chosen), pixels, strict=True), 1):
        strip = [
            source.pictures.add(channel, f"Channel {c} of image {number}", 56) for c, channel in enumerate(channels, 1)
        ]
        rows.append(gallery([source.pictures.add(image, f"Image {number}, decoded", 56), *strip]))
    which = f"The first {count} of {maps.shape[1]} channels" if count < maps.shape[1] else f"All {count} channels"
    told = f"{which} after the decoded image, grey from −2.5 to 2.5 standard deviations of the channel."
    return joined([note(told), *rows])


def _interpolation(source: Source, maps: Tensor) -> Markup:
    ends = maps[spread(len(maps), 6)]
    rows = []
    for first, last in zip(ends[0::2], ends[1::2], strict=False):
        images = source.run.interpolate(first, last, STEPS).pixels
        rows.append(
            gallery(
                [
                    source.pictures.add(image, f"{percent(number / (STEPS - 1))} of the way", 80)
                    for number, image in enumerate(images)
                ],
                columns=STEPS,
            )
        )
    return joined(
        [note("Decoded points between the latents of two images, along the arc of each position."), strips(rows)]
    )


def _noise(source: Source, maps: Tensor) -> Markup:
    try:
        found = source.held_out
        latents, originals, against = found.latent[:NOISY], found.pixels[:NOISY], "the original"
    except GaekitError:
        latents = maps[spread(len(maps), NOISY)]
        originals, against = source.decode(latents), "what is decoded without noise"
    unit = root_mean_square(maps)
    noise = noise_of(torch.arange(len(latents)), latents.shape[1:], 0, latents.device)
    rows: list[list[Markup]] = [[] for _ in range(min(3, len(latents)))]
    levels: list[float] = []
    for sigma in SIGMAS:
        images = source.decode(latents + sigma * unit * noise)
        values = psnr(originals, images)
        levels.append(sum(values) / len(values))
        for row, image in zip(rows, images, strict=False):
            row.append(
                figure(source.pictures.add(image, f"Decoded under noise of {sigma:g}", 80), caption=f"σ = {sigma:g}")
            )
    curve = curves_svg(
        [Series("PSNR", list(SIGMAS), levels)],
        title="PSNR of what is decoded, dB",
        x_label="σ of the noise, in units of the latents’ RMS",
        caption=f"Against {against}, mean over {len(latents)} images: "
        + ", ".join(f"{level:.1f} dB at {sigma:g}" for sigma, level in zip(SIGMAS, levels, strict=True)) + ".",
    )  # fmt: skip
    told = "The same Gaussian noise, at several strengths, is added to a latent before it is decoded."
    return joined([note(told), strips(gallery(row, columns=len(SIGMAS)) for row in rows), plots([curve])])
