"""Numbers about images that gaekit did not make: samples against other real images, or reconstructions against their
originals. Which of the two is said by the names of the numbers, and no metric of one kind takes the other's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gaekit.api import ComponentConfig, Dataset, ImageSource
from gaekit.data.given import FolderSource, OneSplit
from gaekit.errors import DataError, GaekitError
from gaekit.plugins import Registry
from gaekit.runs.evaluate.bench import Bench, SizedSplits, Sizing, open_place
from gaekit.runs.evaluate.pairs import matched
from gaekit.runs.evaluate.sets import Given, ImageSet, component_of, open_images, open_reference
from gaekit.stages.judging import (
    PER_IMAGE,
    Judged,
    Numbers,
    judge_pairs,
    judge_samples,
    judges_of,
    own_batches,
    own_spans,
    results,
)
from gaekit.stages.references import with_references
from gaekit.train.progress import Reporter

GENERATION, RECONSTRUCTION = "generation", "reconstruction"
"""How the names of numbers begin: what the images are taken for."""
OPTION = {"samples": "--against", "pairs": "--originals"}
"""What says with what metrics of each kind compare."""
NEEDS = {
    "samples": "judges samples, against other real images: say which by --against",
    "pairs": "judges reconstructions, each against its original: say where these are by --originals",
    "latents": "judges a tokenizer's latents, and these are images; `gaekit report-card` judges tokenizers",
}


@dataclass(frozen=True)
class Asked:
    """What is asked of an evaluation, as on the command line. `size`: crop and resize to that side; None takes images
    as they are. `allow_few`: tell numbers also of fewer images than they need."""

    images: str
    metrics: Sequence[str]
    against: str | None = None
    originals: Path | None = None
    size: int | None = None
    batch: int = 64
    allow_few: bool = False
    device: str = "auto"
    workers: int = 0


def evaluate_images(asked: Asked, registry: Registry, reporter: Reporter | None = None) -> Numbers:
    """{"generation/fid": {"value", "interval", "protocol"}}: every number that was asked for.

    Every rank has them. Raises GaekitError for a metric of the wrong kind, too few images, and images of unlike size;
    DataError for images that cannot be read.
    """
    configs = [component_of("metric", text, registry, "--metric") for text in asked.metrics]
    kind = _kind_of(configs, asked, registry)
    images = open_images(asked.images)
    with open_place(asked.device, reporter) as (machine, folder):
        place = partial(Bench, registry, machine, store=folder)
        numbers = (_of_pairs if kind == "pairs" else _of_samples)(asked, configs, images, place, registry)
    for entry in numbers.values():
        entry.pop(PER_IMAGE, None)
    return numbers


def _kind_of(configs: Sequence[ComponentConfig], asked: Asked, registry: Registry) -> str:
    """Samples or pairs. Raises GaekitError where a metric is of another kind than what the options say."""
    if not configs:
        raise GaekitError("no metric: say which numbers are wanted by --metric, such as --metric fid")
    if asked.against is not None and asked.originals is not None:
        raise GaekitError(
            "--against and --originals: images are judged as samples or as reconstructions; give one of the two"
        )
    wanted = "pairs" if asked.originals is not None else "samples"
    for config in configs:
        cls = registry.find("metric", config.use)
        needs = getattr(cls, "needs", None)
        if needs != wanted:
            given = f"{OPTION[wanted]} was given" if asked.originals or asked.against else "neither was given"
            raise GaekitError(
                f"--metric {config.use}: {NEEDS[str(needs)]}" + ("" if needs == "latents" else f" ({given})")
            )
    return wanted


def _of_samples(
    asked: Asked, configs: Sequence[ComponentConfig], images: ImageSet, place: Callable[..., Bench], registry: Registry
) -> Numbers:
    given = None if asked.against is None else open_reference(asked.against, registry)
    own = [_compared(config, given) for config in configs]
    dataset = images.dataset if given is None or given.dataset is None else given.dataset
    _check_labels(configs, images, dataset, registry)
    sizing = _sizing(asked.size, images.source)
    bench = place(data=SizedSplits(dataset, sizing, asked.workers, given.promise if given else None))
    judged = judges_of(bench, own, "samples")
    _check_compared(judged, given)
    taken = sizing.images(images.source, asked.workers, pinned=bench.device.type == "cuda")
    _check_counts(asked, judged, len(taken), bench)
    with_references(bench, judged, asked.batch, None)
    judged.ready(bench.device)
    batches = own_batches(bench, taken, asked.batch, "images")
    judge_samples(bench, judged, ((batch.pixels_BRR3, batch.label_B) for batch in batches))
    facts = _facts(images, sizing) | {"against": given.facts if given else None}
    return results(bench, GENERATION, judged, facts, intervals=True)


def _of_pairs(
    asked: Asked, configs: Sequence[ComponentConfig], images: ImageSet, place: Callable[..., Bench], registry: Registry
) -> Numbers:
    assert asked.originals is not None
    if not isinstance(images.source, FolderSource):
        raise GaekitError(
            f"--originals: pairs are matched by their files' names, and {asked.images} is no folder of images: "
            f"it is {images.kind}"
        )
    originals = open_images(str(asked.originals))
    if not isinstance(originals.source, FolderSource):
        raise GaekitError(f"--originals {asked.originals}: is {originals.kind}; give the folder of the originals")
    fake_rows, real_rows = matched(images.source, originals.source)
    sizing = _sizing(asked.size, fake_rows)
    bench = place(data=SizedSplits(originals.dataset, sizing, asked.workers))
    judged = judges_of(bench, configs, "pairs")
    real, fake = (sizing.images(rows, asked.workers) for rows in (real_rows, fake_rows))
    _check_counts(asked, judged, len(fake), None)
    judged.ready(bench.device)
    spans = own_spans(bench.world, len(fake), asked.batch)
    both = zip(own_batches(bench, real, asked.batch, "pairs"), fake.in_order(asked.batch, spans=spans), strict=True)
    judge_pairs(bench, judged, ((one.pixels_BRR3, other.pixels_BRR3) for one, other in both))
    facts = _facts(images, sizing) | {"originals": originals.facts}
    return results(bench, RECONSTRUCTION, judged, facts, intervals=True)


def _facts(images: ImageSet, sizing: Sizing) -> dict[str, Any]:
    return {"images": images.facts, "image_size": sizing.side, "sizing": sizing.facts}


def _sizing(size: int | None, source: ImageSource) -> Sizing:
    """The side that is asked for, or that of the first image."""
    if size is not None:
        return Sizing(size)
    image, _ = source[0]
    if image.width != image.height:
        raise DataError(
            f"{source.key(0)}: is {image.width} x {image.height}, no square; --size R crops and resizes all images as "
            "in training"
        )
    return Sizing(image.width, source.key(0))


def _compared(config: ComponentConfig, given: Given | None) -> ComponentConfig:
    """A metric's settings, with the file of statistics where it is one that reads these. Raises GaekitError where it
    would have two references."""
    own = getattr(config, "reference", None)
    if own is not None and given is not None:
        raise GaekitError(
            f"--metric {config.use}: has a reference of its own, {own}, and --against is another; give one of the two"
        )
    if given is None or given.statistics is None or "reference" not in type(config).model_fields:
        return config
    return config.model_copy(update={"reference": str(given.statistics)})


def _check_compared(judged: Judged, given: Given | None) -> None:
    """Raises GaekitError where a metric has nothing to compare with."""
    for metric in judged.metrics.values():
        if metric.held_out and (given is None or given.dataset is None or isinstance(given.dataset, OneSplit)):
            raise GaekitError(
                f"--metric {metric.name}: compares with training and with held-out images; give --against a data set "
                "that has both splits, such as {use: digits}"
            )
        if metric.split is None:  # it reads a file of its own, or compares with nothing
            continue
        if given is None:
            raise GaekitError(f"--metric {metric.name}: {NEEDS['samples']}")
        if given.dataset is None:
            raise GaekitError(
                f"--metric {metric.name}: needs real images, and {given.statistics} holds the statistics of a "
                "network's features alone"
            )


def _check_labels(configs: Sequence[ComponentConfig], images: ImageSet, dataset: Dataset, registry: Registry) -> None:
    """Raises GaekitError where a metric judges by classes that images or reference do not have."""
    for config in configs:
        if not getattr(registry.find("metric", config.use), "needs_classes", False):
            continue
        if len(dataset.classes) < 2:
            raise GaekitError(
                f"--metric {config.use}: needs classes, and what --against names has {len(dataset.classes)}; a folder "
                "with a sub-folder for each class has them, and a data set"
            )
        if not images.has_labels:
            raise GaekitError(
                f"--metric {config.use}: needs the class of each image, and {images.name} does not tell it; give an "
                ".npz with labels arr_1, or a folder with a sub-folder for each class"
            )
        if images.classes and images.classes != dataset.classes:
            other = sorted(set(images.classes) ^ set(dataset.classes))
            raise GaekitError(
                f"--metric {config.use}: the classes of {images.name} are not those of the reference: "
                f"{', '.join(other[:5]) or 'their order differs'}"
            )


def _check_counts(asked: Asked, judged: Judged, count: int, reference: Bench | None) -> None:
    """Raises GaekitError where a side has fewer images than a metric needs for its number to mean something."""
    if asked.allow_few:
        return
    for metric in judged.metrics.values():
        sides = {asked.images: count}
        if reference is not None and metric.split is not None:
            sides[f"--against {asked.against}"] = len(reference.images(metric.split))
        for side, found in sides.items():
            if found < metric.fewest:
                raise GaekitError(
                    f"--metric {metric.name}: needs at least {metric.fewest} images on either side, and {side} has "
                    f"{found}; give more, or say --allow-few to have a number that mostly says how few they are"
                )
