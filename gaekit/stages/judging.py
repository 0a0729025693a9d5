"""Metrics over several ranks: each extracts what a metric looks at of its own images, one makes a number of it.

Batches of images are dealt out over the ranks. What a rank extracted is sent to the rank that computes the metric, in
the order of the data, so that no number depends on how many ranks there are.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gaekit.api import ComponentConfig, Encoded, Interval, Metric
from gaekit.data.images import ImageBatch, Images, to_float
from gaekit.parallel import World
from gaekit.plugins import build
from gaekit.stages.evaluation import Evaluation

Numbers = dict[str, dict[str, Any]]
T = TypeVar("T")
PER_IMAGE = "per_image"
"""The key of an entry, and the name of the file: what each held-out image contributes to a number, their mean."""
BATCHES_AT_ONCE = 8
"""Batches of each rank whose rows are sent to a metric's owner at once."""


@dataclass
class Judged:
    """The metrics of one sort by their place among the recipe's. Each rank has all of them, for what they `extract`;
    the number of each is computed by one rank, its owner."""

    metrics: dict[int, Metric]
    configs: dict[int, ComponentConfig]
    world: World

    @property
    def own(self) -> dict[int, Metric]:
        """Those whose numbers this rank computes."""
        return {place: metric for place, metric in self.metrics.items() if self.owner(place) == self.world.rank}

    def owner(self, place: int) -> int:
        """The rank that computes the number of a metric."""
        return place % self.world.size

    def only(self, places: Iterable[int]) -> Judged:
        """Some of them."""
        return replace(self, metrics={place: self.metrics[place] for place in places})

    def ready(self, device: torch.device) -> None:
        """Say that every reference is in; a copy of them that is made hereafter needs it no more."""
        for metric in self.own.values():
            metric.ready(device)

    def copies(self) -> Judged:
        """The same with copies of this rank's own, for one of several series of what is judged."""
        return replace(self, metrics=self.metrics | {place: copy.deepcopy(m) for place, m in self.own.items()})


def judges_of(evaluation: Evaluation, wanted: Sequence[ComponentConfig], needs: str) -> Judged:
    """Those of the metrics that are of one sort. Those that need classes are left out where the data has none."""
    found = [(config, evaluation.registry.find("metric", config.use)) for config in wanted]
    chosen = [c for c, cls in found if issubclass(cls, Metric) and cls.needs == needs and not left_out(cls, evaluation)]
    sizes = {"image_size": evaluation.image_size, "classes": evaluation.data.dataset.classes}
    metrics = {place: build(Metric, config, evaluation.registry, **sizes) for place, config in enumerate(chosen)}
    for metric in metrics.values():
        for network in _networks_of(metric):
            evaluation.machine.watch(network, f"metric {metric.name}")
    return Judged(metrics, dict(enumerate(chosen)), evaluation.world)


def _networks_of(held: object, depth: int = 2) -> Iterator[nn.Module]:
    """The networks that a metric, what extracts its features, or a metric in it holds."""
    for value in vars(held).values():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, nn.Module):
                yield one
            elif depth and hasattr(one, "__dict__") and not isinstance(one, type):
                yield from _networks_of(one, depth - 1)


@torch.no_grad()
def extracted(evaluation: Evaluation, metric: Metric, pixels_BRR3: Tensor) -> Tensor:
    """What a metric looks at of images, to be sent to its owner: images go as uint8 (B, R, R, 3)."""
    if type(metric).extract is Metric.extract:
        return pixels_BRR3
    return metric.extract(to_float(pixels_BRR3).to(evaluation.device)).cpu()


def received(evaluation: Evaluation, metric: Metric, sent: Tensor) -> Tensor:
    """Inverse of the sending, on the device."""
    return (to_float(sent) if type(metric).extract is Metric.extract else sent).to(evaluation.device)


def handed(judged: Judged, own: Iterator[dict[int, T]]) -> Iterator[tuple[Metric, T]]:
    """(metric, what it is to take in) on its owner, in the order of the data, from what every rank has of its own
    batches for each metric. Several batches of each rank are sent at once. Every rank must exhaust it."""
    world = judged.world
    while True:
        block = list(itertools.islice(own, BATCHES_AT_ONCE))
        if not world.all_reduce_max(len(block)):
            return
        for place, metric in judged.metrics.items():
            found = world.gather([batch[place] for batch in block], to=judged.owner(place))
            for turn in itertools.zip_longest(*found):  # a batch of each rank in turn, as they were dealt out
                yield from ((metric, given) for given in turn if given is not None)


def own_spans(world: World, count: int, size: int) -> list[range]:
    """This rank's batches of `count` images: of each `ranks` in turn, one."""
    spans = [range(first, min(first + size, count)) for first in range(0, count, size)]
    return spans[world.rank :: world.size]


def own_batches(evaluation: Evaluation, images: Images, size: int, title: str) -> Iterator[ImageBatch]:
    """This rank's batches of a split."""
    ranks = evaluation.world.size
    own = own_spans(evaluation.world, len(images), size)
    with evaluation.reporter.bar(title, sum(map(len, own)) * ranks, ranks=ranks) as bar:
        for batch in images.in_order(size, spans=own):
            yield batch
            bar.advance(len(batch) * ranks)


def left_out(metric: type[Metric], evaluation: Evaluation) -> bool:
    """Whether a metric needs classes and the data has none."""
    return metric.needs_classes and len(evaluation.data.dataset.classes) < 2


def results(
    evaluation: Evaluation, prefix: str, judged: Judged, facts: dict[str, Any], *, intervals: bool = False
) -> Numbers:
    """What every rank's metrics found, in the recipe's order, on every rank. With `intervals`, which may take as long
    as the numbers, an entry also holds its interval, and by `PER_IMAGE` what each image contributes, where it has
    them."""
    mine = {}
    for place, metric in judged.own.items():
        with evaluation.reporter.waiting(f"computing {metric.name}"):
            mine[place] = _told(metric, intervals)
    everywhere = {place: result for part in evaluation.world.all_gather(mine) for place, result in part.items()}
    found: Numbers = {}
    for place in sorted(everywhere):
        told = everywhere[place]
        for name, value in told.numbers.items():
            number = 1 + sum(key.rpartition("#")[0] == f"{prefix}/{name}" or key == f"{prefix}/{name}" for key in found)
            key = f"{prefix}/{name}" if number == 1 else f"{prefix}/{name}#{number}"
            found[key] = told.entry(name, value, facts)
    return found


@dataclass(frozen=True)
class Told:
    """All that a metric tells of the images that it was given."""

    numbers: dict[str, float]
    intervals: dict[str, Interval]
    per_image: dict[str, NDArray[np.float64]]
    protocol: dict[str, Any]

    def entry(self, name: str, value: float, facts: dict[str, Any]) -> dict[str, Any]:
        """What is written of one of its numbers."""
        entry: dict[str, Any] = {"value": value}
        protocol = facts | self.protocol
        if (interval := self.intervals.get(name)) is not None:
            entry["interval"] = [interval.low, interval.high]
            protocol |= {"interval": interval.method}
        if name in self.per_image:
            entry[PER_IMAGE] = self.per_image[name]
        return entry | {"protocol": protocol}


def _told(metric: Metric, intervals: bool) -> Told:
    numbers = metric.compute()
    if not intervals:
        return Told(numbers, {}, {}, metric.protocol())
    per_image = {name: rows.cpu().double().numpy() for name, rows in metric.per_image().items()}
    return Told(numbers, metric.intervals(), per_image, metric.protocol())


def is_higher_better(judged: Judged, name: str) -> bool:
    """Whether more of a number is better, by its name among `results`."""
    own = name.partition("/")[2]
    return any(own.startswith(start) for metric in judged.metrics.values() for start in metric.higher)


def judge_pairs(evaluation: Evaluation, judged: Judged, pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Have metrics of pairs take in this rank's (images, their reconstructions), uint8 (B, R, R, 3) on the CPU."""
    batches = (
        {
            n: (extracted(evaluation, metric, real), extracted(evaluation, metric, fake))
            for n, metric in judged.metrics.items()
        }
        for real, fake in pairs
    )
    for metric, (real, fake) in handed(judged, batches):
        metric.update(received(evaluation, metric, real), received(evaluation, metric, fake))


def judge_samples(evaluation: Evaluation, judged: Judged, samples: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Have metrics of samples take in this rank's (images, their labels), uint8 (B, R, R, 3) on the CPU."""
    batches = (
        {place: (extracted(evaluation, metric, pixels), label) for place, metric in judged.metrics.items()}
        for pixels, label in samples
    )
    for metric, (sent, label_B) in handed(judged, batches):
        metric.update(received(evaluation, metric, sent), label_B)


def judge_latents(
    evaluation: Evaluation,
    judged: Judged,
    references: Callable[[str], Iterator[tuple[Tensor, Tensor]]],
    held_out: Callable[[], Iterator[Encoded]],
) -> None:
    """Have metrics of latents take in this rank's (latent_BDHW, label_B) of the splits that they ask for, and its
    held-out images. Each split is asked for once, if at all."""
    for split in sorted({metric.split for metric in judged.metrics.values() if metric.split is not None}):
        of_split = judged.only(place for place, metric in judged.metrics.items() if metric.split == split)
        batches = (dict.fromkeys(of_split.metrics, batch) for batch in references(split))
        for metric, (latent_BDHW, label_B) in handed(of_split, batches):
            metric.reference(latent_BDHW, label_B)
    _share_references(judged)
    judged.ready(evaluation.device)
    seen = ({n: _looked_at(metric, batch) for n, metric in judged.metrics.items()} for batch in held_out())
    for metric, (row_B, label_B) in handed(judged, seen):
        metric.update(row_B.to(evaluation.device), label_B)


@torch.no_grad()
def _looked_at(metric: Metric, batch: Encoded) -> tuple[Tensor, Tensor]:
    return metric.extract_latent(batch).cpu(), batch.label_B.cpu()


def _share_references(judged: Judged) -> None:
    """Load on every rank what a metric took in on its owner, if `extract_latent` needs it."""
    if judged.world.size == 1:
        return
    own = {place: metric.reference_state() for place, metric in judged.own.items() if metric.split is not None}
    for part in judged.world.all_gather(own):
        for place, state in part.items():
            if state is not None and place not in own:
                judged.metrics[place].load_reference(state)
