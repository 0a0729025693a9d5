"""Promises of data sets, metrics and trackers."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gaekit.api import Dataset, Encoded, ImageSource, Interval, Metric, TrackedStage, Tracker, to_pixels
from gaekit.guard import (
    ImagePromise,
    check_intervals,
    check_numbers,
    check_per_image,
    check_protocol,
    check_source,
)
from gaekit.testing.promises import Make, expect, numbers, own_randomness


def check_dataset(make: Make, sizes: Mapping[str, Any]) -> None:
    """RGB images with labels in two disjoint splits, and a stable digest."""
    dataset: Dataset = make()
    expect(all(isinstance(name, str) for name in dataset.classes), "classes are names")
    splits = (dataset.train(), dataset.validation())
    for source in splits:
        check_source(dataset, source)
        expect(len(source) > 0, "a split has images")
        for index in (0, len(source) - 1):
            ImagePromise(f"dataset '{dataset.name}'", len(dataset.classes), False).check(source[index], index)
        _check_known(source)
    keys = [{source.key(i) for i in range(len(source))} for source in splits]
    expect(all(len(k) == len(s) for k, s in zip(keys, splits, strict=True)), "keys are unique")
    expect(not keys[0] & keys[1], "the splits share no image")
    expect(len(dataset.digest()) == 64 and dataset.digest() == make().digest(), "digest is a stable sha256")


def _check_known(source: ImageSource) -> None:
    """What a split may also have, `labels` and `order`, agrees with its images; worker processes get a copy of it."""
    last = len(source) - 1
    try:
        copy = pickle.loads(pickle.dumps(source))
    except Exception as error:  # whatever its class raises
        raise AssertionError(f"a split can be pickled, for worker processes: {error}") from error
    expect(copy.key(last) == source.key(last), "a pickled split is the same")
    labels, order = getattr(source, "labels", None), getattr(source, "order", None)
    if labels is not None:
        expect(len(labels) == len(source), "there is a label for each image")
        expect(int(labels[last]) == source[last][1], "`labels` are those that come with the images")
    if order is not None:
        epoch = [int(index) for index in order(0, 1)]
        expect(sorted(epoch) == list(range(len(source))), "an order visits each image once")
        copy.order(0, 2)
        expect(epoch == [int(index) for index in copy.order(0, 1)], "an order depends on seed and epoch alone")


def check_metric(make: Make, sizes: Mapping[str, Any]) -> None:
    """Numbers that do not depend on how batches are cut, nor on whether the reference was kept, with a protocol in JSON
    values."""
    needs = getattr(make(), "needs", None)
    expect(needs in ("pairs", "samples", "latents"), "`needs` is pairs, samples or latents", needs)
    with own_randomness():
        whole, cut = _measured(make(), sizes, 24), _measured(make(), sizes, 10)
    for found in (whole, cut):
        check_numbers(None, found.numbers)
    expect(whole.numbers.keys() == cut.numbers.keys(), "the numbers have the same names")
    for name, value in whole.numbers.items():
        expect(value == value, f"{name} is a number", value)
        other = cut.numbers[name]
        expect(_close(value, other), f"{name} does not depend on how batches are cut", f"{value} and {other}")
    check_protocol(None, whole.protocol)
    _check_beside(whole, cut)
    first, second = make(), make()
    if first.needs != "pairs" and first.split is not None:
        _take_reference(first, sizes, 24)
        if (state := first.reference_state()) is not None:
            others = first.reconstruction_state(), first.held_out_state()
            kept = _measured(second, sizes, 24, (state, *others)).numbers
            expect(kept == whole.numbers, f"a kept reference gives the same numbers: {kept} and {whole.numbers}")


def _check_beside(whole: Measured, cut: Measured) -> None:
    """What goes with the numbers does not depend on how batches are cut either: an interval has its number inside, and
    a number of which every image's own is told is their mean."""
    for found in (whole, cut):
        check_intervals(None, found.intervals)
        check_per_image(None, found.per_image)
    for what in ("intervals", "per_image"):
        one, other = getattr(whole, what), getattr(cut, what)
        expect(one.keys() <= whole.numbers.keys(), f"`{what}` are of numbers of `compute`", sorted(one))
        expect(one.keys() == other.keys(), f"`{what}` have the same names however batches are cut", sorted(other))
    for name, interval in whole.intervals.items():
        value, bounds, other = whole.numbers[name], (interval.low, interval.high), cut.intervals[name]
        expect(bounds[0] <= value <= bounds[1], f"the interval of {name} holds {value}", bounds)
        same = all(_close(a, b) for a, b in zip(bounds, (other.low, other.high), strict=True))
        expect(same, f"the interval of {name} does not depend on how batches are cut", f"{interval} and {other}")
    for name, rows in whole.per_image.items():
        right = len(rows) > 0 and _close(whole.numbers[name], float(rows.double().mean()))
        expect(right, f"{name} is the mean over images of its `per_image`", float(rows.double().mean()))
        same = len(rows) == len(cut.per_image[name]) and bool((rows - cut.per_image[name]).abs().max() <= 1e-4)
        expect(same, f"`per_image` of {name} does not depend on how batches are cut", "others" if not same else None)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-4 * max(1.0, abs(one))


@dataclass(frozen=True)
class Measured:
    """What a metric told of the same images."""

    numbers: dict[str, float]
    intervals: dict[str, Interval]
    per_image: dict[str, torch.Tensor]
    protocol: dict[str, Any]


Kept = tuple[Mapping[str, torch.Tensor] | None, ...]
"""What a metric told of the real images, of their reconstructions, and of the held-out images."""


def _measured(metric: Metric, sizes: Mapping[str, Any], batch: int, kept: Kept | None = None) -> Measured:
    _take_reference(metric, sizes, batch, kept)
    metric.ready(torch.device("cpu"))
    decode = _decoder(sizes)
    for first, second, label, index in _batches(metric, sizes, batch):
        if metric.needs == "latents":
            seen = Encoded(second, label, index, decode(second), decode)
            metric.update(metric.extract_latent(seen), label)
        elif metric.needs == "pairs":
            metric.update(metric.extract(first), metric.extract(second))
        else:
            metric.update(metric.extract(second), label)
    return Measured(metric.compute(), metric.intervals(), metric.per_image(), metric.protocol())


def _take_reference(metric: Metric, sizes: Mapping[str, Any], batch: int, kept: Kept | None = None) -> None:
    """What comes before `ready`. Reconstructions and held-out images are images between the real and the generated
    ones."""
    images, reconstructions, held_out = kept or (None, None, None)
    if images is not None:
        metric.load_reference(images)
    if reconstructions is not None:
        metric.load_reconstruction(reconstructions)
    if held_out is not None:
        metric.load_held_out(held_out)
    if metric.needs == "pairs":
        return
    for first, second, label, _ in _batches(metric, sizes, batch) if metric.split is not None else ():
        if images is None:
            metric.reference(first if metric.needs == "latents" else metric.extract(first), label)
        if metric.reconstructions and reconstructions is None:
            metric.reference_reconstruction(metric.extract((first + second) / 2), label)
    for first, second, label, _ in _batches(metric, sizes, batch) if metric.held_out and held_out is None else ():
        metric.reference_held_out(metric.extract(0.75 * first + 0.25 * second), label)


def _batches(metric: Metric, sizes: Mapping[str, Any], batch: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """(images or latents, others of the same classes, their labels, their places)."""
    count, classes = 24, max(1, len(sizes["classes"]))
    label = torch.arange(count) % classes
    level = (label / classes).view(-1, 1, 1, 1) - 0.4
    shape = (count, 8, 4, 4) if metric.needs == "latents" else (count, 3, sizes["image_size"], sizes["image_size"])
    first, second = ((level + 0.2 * numbers(*shape, seed=s)).clamp(-1, 1) for s in (1, 2))
    for part in (slice(i, i + batch) for i in range(0, count, batch)):
        yield first[part], second[part], label[part], torch.arange(count)[part]


def _decoder(sizes: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Shows the first three channels of latents, enlarged."""

    def decode(latent_BDHW: torch.Tensor) -> torch.Tensor:
        side = sizes["image_size"]
        image = torch.nn.functional.interpolate(latent_BDHW[:, :3], size=(side, side))
        return to_pixels(image).float() / 127.5 - 1

    return decode


def check_tracker(make: Make, sizes: Mapping[str, Any]) -> None:
    """Scalars and images are taken, with images and without, and results."""
    with tempfile.TemporaryDirectory() as folder:
        stage = TrackedStage("a_run", "diffusion", {"name": "a_run", "diffusion": {"train": {"steps": 2}}})
        tracker: Tracker = make(folder=Path(folder), purge_step=0, stage=stage)
        tracker.log(1, {"loss": 1.5}, {"images": torch.rand(3, 8, 16)})
        tracker.log(2, {"loss": 1.25}, {})
        tracker.results({"fid": 2.5}, {"samples": torch.rand(3, 8, 16)})
        tracker.close()
