"""New images by an opened run's denoiser, sampler and decoder, as its recipe has them but for what is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gaekit.errors import GaekitError, Problem, RecipeError
from gaekit.recipe import dump, load_section
from gaekit.recipe.rules import guidance_has_a_null_class, guidance_interval_is_one
from gaekit.recipe.schema import Sample, Weak
from gaekit.runs.pictures import Pictures, pictures_of
from gaekit.stages import diffusion
from gaekit.stages.generate import WEAK, ImageGenerator
from gaekit.store.artifact import resolve
from gaekit.train.progress import Bar

if TYPE_CHECKING:
    from gaekit.runs.opened import OnStep, OpenRun

ASKED = "run.sample"
"""What errors name as the source of settings that were asked for."""


def sample(
    run: OpenRun, classes: str | int | Sequence[str | int] | None, count: int, *, steps: int | None,
    guidance: float | None, interval: tuple[float, float] | None, weak: str | Path | None, seed: int | None,
    on_step: OnStep | None,
) -> Pictures:  # fmt: skip
    """As `OpenRun.sample` says."""
    if count < 1:
        raise GaekitError(f"count: {count}: expected a whole number from 1 on")
    section = asked_section(run, steps=steps, guidance=guidance, interval=interval, weak=weak)
    labels = _labels(run, classes, count)
    generator = generator_of(run, section, run.recipe.seed if seed is None else seed)
    names = [run.classes[label] for label in labels] if run.classes else []
    return pictures_of(_images(run, generator, labels, on_step), labels if names else (), names)


def generator_of(run: OpenRun, section: Sample, seed: int) -> ImageGenerator:
    """What makes images of the run's denoiser as a section says."""
    return ImageGenerator(
        run.machine,
        run.registry,
        section,
        seed,
        run.autoencoder,
        run.denoiser,
        section.guidance,
        weak_artifact(run, section),
        compiled=False,
    )


def asked_section(
    run: OpenRun, *, steps: int | None = None, guidance: float | None = None,
    interval: tuple[float, float] | None = None, weak: str | Path | None = None, shift: float | None = None,
) -> Sample:  # fmt: skip
    """The recipe's section `sample` with what is asked otherwise. Raises RecipeError for values that cannot be."""
    if run.recipe.sample is None:
        raise GaekitError(f"{run.path}: its recipe has no section 'sample'")
    run.registry.find("sampler", run.recipe.sample.sampler.use)
    settings = dump(run.recipe.sample)
    asked: dict[str, Any] = {"scale": guidance}
    if interval is not None:
        asked["start"], asked["end"] = interval
    if weak is not None:
        asked["weak"] = {"from": str(weak)}
    settings["guidance"] |= {key: value for key, value in asked.items() if value is not None}
    settings["sampler"] |= {key: value for key, value in (("steps", steps), ("shift", shift)) if value is not None}
    section = load_section(Sample, settings, run.registry, source=ASKED)
    if section != run.recipe.sample:
        _refuse_broken_rules(run, section)
    return section


def _refuse_broken_rules(run: OpenRun, section: Sample) -> None:
    recipe = run.recipe.model_copy(update={"sample": section})
    rules = (guidance_interval_is_one, guidance_has_a_null_class)
    problems: list[Problem] = [problem for rule in rules for problem in rule(recipe, run.registry)]
    if problems:
        raise RecipeError(ASKED, problems)


def _labels(run: OpenRun, classes: str | int | Sequence[str | int] | None, count: int) -> list[int]:
    """The label of each image: the classes in turn, 0 without classes."""
    if classes is None:
        wanted = list(range(max(1, len(run.classes))))
    else:
        wanted = [run.label(name) for name in ([classes] if isinstance(classes, str | int) else classes)]
    if not wanted:
        raise GaekitError("classes: an empty list; give names or indices, or leave it out for all")
    return [wanted[index % len(wanted)] for index in range(count)]


def weak_artifact(run: OpenRun, section: Sample) -> Path | None:
    """The artifact of the weak denoiser: as the run found it, or where another is asked for, there."""
    weak: Weak | None = section.guidance.weak
    if weak is None or not section.guidance.is_by_weak:
        return None
    own = run.recipe.sample.guidance.weak if run.recipe.sample else None
    if weak == own and (known := run.view.external("sample").get(WEAK)):
        return known
    return resolve(Path(weak.path), diffusion.STAGE.name, diffusion.STAGE.artifact)


def _images(run: OpenRun, generator: ImageGenerator, labels: list[int], on_step: OnStep | None) -> Iterator[Tensor]:
    """image_B3RR of each chunk of the recipe's size: the size of a chunk decides the last bit."""
    size = generator.section.batch
    chunks = -(-len(labels) // size)
    with run.reporter.bar("samples", len(labels)) as bar:
        for number, first in enumerate(range(0, len(labels), size)):
            some = labels[first : first + size]
            told = _told(bar, first, len(some), number, chunks, on_step)
            yield generator.images("asked", range(first, first + len(some)), some, told)
            bar.advance(first + len(some) - bar.done)


def _told(bar: Bar, first: int, images: int, chunk: int, chunks: int, on_step: OnStep | None) -> OnStep:
    """A callback that moves the bar by whole images, and counts the steps of all chunks for `on_step`."""

    def step(done: int, total: int) -> None:
        bar.advance(first + images * done // total - bar.done)
        if on_step is not None:
            on_step(chunk * total + done, chunks * total)

    return step
