"""What the page asks of a run, within bounds, and what it shows of the answer. Nothing is written and nothing kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image

from gaekit.api import decode_image
from gaekit.data.images import center_crop
from gaekit.errors import BadImage, GaekitError, RecipeError
from gaekit.runs.opened import OnStep, OpenRun
from gaekit.runs.pictures import Pictures
from gaekit.runs.reconstruct import decibels
from gaekit.runs.sampling import asked_section
from gaekit.seeds import generator_for

MOST_IMAGES, MOST_STEPS, MOST_SCALE, MOST_SEED = 64, 1000, 20.0, 2**31 - 1
"""Of one click: images, steps of the sampler, scale of the guidance, the seed."""
MOST_SIGMA = 10.0
FEW = 16
"""Images by default, or a few more so that each class has as many."""
GAIN = 4
"""How much a difference is amplified."""
MOST_BYTES = 20 << 20
"""Of a file that is dropped."""


@dataclass(frozen=True)
class Sampling:
    """What a run's sampling can be asked for, and what its recipe has.

    classes: names in label order, () for none. steps: None where the sampler chooses them itself. guidance: the scale
    and the interval of times, None where nothing can guide. count: images, as many as fill a grid.
    """

    classes: tuple[str, ...]
    count: int
    sampler: str
    steps: int | None
    guidance: tuple[float, float, float] | None
    seed: int


@dataclass(frozen=True)
class Asked:
    """A request for samples, as the page's controls have it: a number is None where its field is empty. `classes` are
    labels, () for all in turn; what the run does not offer is None too."""

    classes: Sequence[int]
    count: float | None
    steps: float | None
    scale: float | None
    start: float | None
    end: float | None
    seed: float | None


@dataclass(frozen=True)
class Sampled:
    """New images, how they were made in a line, and the same in Python."""

    pictures: Pictures
    told: str
    code: str


@dataclass(frozen=True)
class Rebuilt:
    """An image as the autoencoder sees it, what it makes of it, and of its latent with noise; differences amplified
    about grey; PSNR in dB."""

    original: Image
    rebuilt: Image
    difference: Image
    noisy: Image
    noisy_difference: Image
    psnr: float
    noisy_psnr: float


def offered(run: OpenRun) -> Sampling:
    """What a run's sampling offers; loads its denoiser. Raises GaekitError where it cannot be sampled."""
    section, classes = asked_section(run), run.classes
    sampler, guidance = section.sampler, section.guidance
    guides = bool(classes) or guidance.weak is not None
    if guides:
        try:
            asked_section(run, guidance=2.0)
        except RecipeError:  # its null class was never trained
            guides = False
    return Sampling(
        classes,
        -(-FEW // len(classes)) * len(classes) if 0 < len(classes) <= 2 * FEW else FEW,
        sampler.use,
        sampler.model_dump().get("steps"),
        (guidance.scale, guidance.start, guidance.end) if guides else None,
        run.recipe.seed,
    )


def sample(run: OpenRun, offer: Sampling, asked: Asked, on_step: OnStep | None = None) -> Sampled:
    """New images as asked. Raises GaekitError for what is out of bounds or cannot be."""
    count, seed = _whole("images", asked.count, 1, MOST_IMAGES), _whole("seed", asked.seed, 0, MOST_SEED)
    steps = None if offer.steps is None else _whole("steps", asked.steps, 1, MOST_STEPS)
    scale, interval = None, None
    if offer.guidance is not None:
        scale = _number("guidance", asked.scale, 0.0, MOST_SCALE)
        interval = (_number("guided from", asked.start, 0.0, 1.0), _number("guided until", asked.end, 0.0, 1.0))
        if interval[0] >= interval[1]:
            raise GaekitError(
                f"guidance: the interval starts at {interval[0]:g} and must end later, not at {interval[1]:g}; "
                "t = 0 is noise, t = 1 the image"
            )
    classes = list(asked.classes) or None
    begin = time.perf_counter()
    pictures = run.sample(classes, count, steps=steps, guidance=scale, interval=interval, seed=seed, on_step=on_step)
    seconds = time.perf_counter() - begin
    facts = [f"{count} image{'s' if count > 1 else ''} in {seconds:.1f} s", offer.sampler]
    facts += [] if steps is None else [f"{steps} step{'s' if steps > 1 else ''}"]
    if scale is not None and interval is not None:
        facts.append("no guidance" if scale == 1 else f"guidance {scale:g} for t in [{interval[0]:g}, {interval[1]:g})")
    facts.append(f"seed {seed}")
    given = {"classes": classes, "count": count, "steps": steps, "guidance": scale, "interval": interval, "seed": seed}
    arguments = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return Sampled(pictures, ", ".join(facts), f"gaekit.open({str(run.path)!r}).sample({arguments})")


def reconstruct(run: OpenRun, file: Path, sigma: float | None, seed: float | None) -> Rebuilt:
    """A file's image through the autoencoder, without noise and with it.

    The noisy latent is z + sigma rms(z) e, e of unit variance from the seed: where the regularizer brings latents to
    a root mean square of 1, sigma is the noise's standard deviation. Raises BadImage for what is no image, GaekitError
    for what is out of bounds.
    """
    sigma = _number("noise", sigma, 0.0, MOST_SIGMA)
    generator = generator_for(_whole("seed", seed, 0, MOST_SEED), "demo noise")
    original = center_crop(_decoded(file), run.autoencoder.spec.image_size)
    latent = run.encode(original)
    noise = torch.randn(latent.shape, generator=generator)
    rebuilt = run.decode(latent)
    noisy = run.decode(latent + sigma * latent.square().mean().sqrt() * noise) if sigma else rebuilt
    before = torch.from_numpy(original)
    return Rebuilt(
        Pictures(before[None])[0],
        rebuilt[0],
        _difference(before, rebuilt.pixels[0]),
        noisy[0],
        _difference(before, noisy.pixels[0]),
        _psnr(before, rebuilt.pixels[0]),
        _psnr(before, noisy.pixels[0]),
    )


def _decoded(file: Path) -> Image:
    if (size := file.stat().st_size) > MOST_BYTES:
        raise BadImage(f"{file.name}: {size / 2**20:.0f} MB; at most {MOST_BYTES >> 20} MB are taken")
    return decode_image(file.name, data=file.read_bytes())


def _psnr(before_RR3: torch.Tensor, after_RR3: torch.Tensor) -> float:
    return decibels(float((after_RR3.double() - before_RR3.double()).square().mean()))


def _difference(before_RR3: torch.Tensor, after_RR3: torch.Tensor) -> Image:
    """GAIN times what changed, about grey."""
    change = after_RR3.double() - before_RR3.double()
    return Pictures((128 + GAIN * change).round().clamp(0, 255).to(torch.uint8)[None])[0]


def _whole(name: str, value: float | None, low: int, high: int) -> int:
    number = _number(name, value, low, high)
    if number != int(number):
        raise GaekitError(f"{name}: {number:g}: expected a whole number from {low} to {high}")
    return int(number)


def _number(name: str, value: float | None, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not low <= value <= high:  # nan is in no interval
        shown = "nothing" if value is None else ascii(value)[:40]
        raise GaekitError(f"{name}: {shown}: expected a number from {low:g} to {high:g}")
    return float(value)
