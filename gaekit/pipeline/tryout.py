"""`gaekit run --try`: a recipe from end to end in two steps a training and a few images, before a long run.

The networks, and on a GPU the images that go through them at once, are those of the recipe, so that what does not fit
into memory shows. Its runs stand in `<out>/try/<name>` with rooms of their own beside them, and each begins from
nothing: they are for seeing that all works, and no other run takes anything from them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from gaekit.errors import GaekitError
from gaekit.pipeline.rooms import collect
from gaekit.pipeline.view import RECORD, View
from gaekit.recipe.probe import AutoencoderProbe, DiffusionProbe
from gaekit.recipe.schema import Autoencoder, Diffusion, Latents, Recipe, Semantic, Train
from gaekit.store.curves import read_curves
from gaekit.store.room import Room

STEPS = 2
IMAGES = 24
"""Images of each split, and samples: so many suffice for every metric that `check_component` has passed."""
MEMORY = "train/peak_memory_gib"
ROWS = 8
"""Images at once where the device is a CPU, whose memory is seldom what lacks."""


def try_overrides(recipe: Recipe, *, processes: int, on_cpu: bool) -> list[str]:
    """What `--try` changes of a recipe, each as `--set` says it."""
    return [f"{key}={value}" for key, value in _changes(recipe, processes, on_cpu)]


def _changes(recipe: Recipe, processes: int, on_cpu: bool) -> Iterator[tuple[str, object]]:
    for stage, train in recipe.trainings():
        yield f"{stage}.train.steps", min(train.steps, STEPS)
        yield f"{stage}.train.batch", processes * _rows(recipe, train, processes, on_cpu)
        yield f"{stage}.train.warmup", 0
        if train.schedule != "constant":
            yield f"{stage}.train.decay_start", 0
            yield f"{stage}.train.decay_end", "null"
    for stage, section in (("autoencoder", recipe.autoencoder), ("diffusion", recipe.diffusion)):
        if isinstance(section, Autoencoder | Diffusion) and section.probe is not None:
            yield from _of_probe(f"{stage}.probe", section.probe)
    if isinstance(recipe.semantic, Semantic) and recipe.semantic.images is not None:
        yield "semantic.images", min(recipe.semantic.images, IMAGES)
    if isinstance(recipe.autoencoder, Autoencoder) and recipe.autoencoder.adversary:
        yield "autoencoder.adversary.start", 1  # so that it takes part in the last step
        yield "autoencoder.adversary.warmup", 0
    if isinstance(recipe.latents, Latents) and recipe.latents.images is not None:
        yield "latents.images", min(recipe.latents.images, IMAGES)
    if recipe.sample is not None:
        yield "sample.count", min(recipe.sample.count, IMAGES)
        if on_cpu:
            yield "sample.batch", min(recipe.sample.batch, ROWS)
        if getattr(recipe.sample.sampler, "steps", None) is not None:
            yield "sample.sampler.steps", STEPS
    yield "runtime.log_every", 1
    yield "runtime.profile", "null"


def _of_probe(key: str, probe: AutoencoderProbe | DiffusionProbe) -> Iterator[tuple[str, object]]:
    yield f"{key}.every", STEPS
    yield f"{key}.count", min(probe.count, IMAGES)
    if probe.loss is not None:
        yield f"{key}.loss.images", min(probe.loss.images, IMAGES)
    if isinstance(probe, DiffusionProbe) and getattr(probe.sampler, "steps", None) is not None:
        yield f"{key}.sampler.steps", STEPS


def _rows(recipe: Recipe, train: Train, processes: int, on_cpu: bool) -> int:
    """Images of one process a step: those of one pass through the networks, fewer on a CPU."""
    full = max(1, train.batch // processes)
    once = min(recipe.runtime.micro_batch or full, full)
    if not on_cpu or once <= ROWS:
        return once
    adversary = recipe.autoencoder.adversary if isinstance(recipe.autoencoder, Autoencoder) else None
    return min(once, adversary.norm_batch if adversary and adversary.norm == "batch" else ROWS)


def line_of(recipe: Recipe, out: Path) -> str:
    """What a person is told of a recipe that `try_overrides` has changed."""
    batches = {stage: train.batch for stage, train in recipe.trainings()}
    alike = len(set(batches.values())) == 1
    steps = [f"{batch} images a step" + ("" if alike else f" in {stage}") for stage, batch in batches.items()]
    told = [f"{STEPS} steps a training", *(steps[:1] if alike else steps), f"{IMAGES} images a split"]
    return f"try: {', '.join(told)}, networks at full size; in {out / recipe.name}, apart from all other runs"


def memory_line(view: View) -> str | None:
    """The most memory that tensors of each training took on a GPU; None where there was none."""
    peaks = {}
    for stage, entry in view.record["stages"].items():
        if entry["room"]:
            curves = read_curves(Room(view.path.parent / entry["room"], entry["subfolder"]).curves)
            if found := curves.scalars.get(MEMORY):
                peaks[stage] = max(value for _, value in found)
    told = ", ".join(f"{stage} {peak:.1f} GiB" for stage, peak in peaks.items())
    return f"most memory of the GPU: {told}" if told else None


def begin_afresh(view: View) -> None:
    """Remove what an earlier trial of this name left. Raises GaekitError where the folder of trials is a run."""
    out = view.path.parent
    if (out / RECORD).exists():
        raise GaekitError(
            f"{out}: is a run of that name, and the folder of all trials; rename it, or give another --out"
        )
    if (view.path / RECORD).exists():
        shutil.rmtree(view.path)
    collect(out)
