"""Stage 6: numbers about the reconstructions, the samples and the latents, each with its protocol.

Over several ranks, the batches of images are dealt out: each rank decodes, encodes and reconstructs its own, and
extracts what each metric looks at. That is sent to the rank that computes the metric, in the order of the data, so that
no number depends on how many ranks there are. What metrics took in of the real images is kept for later evaluations.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaekit.api import ComponentConfig, Metric
from gaekit.data.images import ImageBatch, Images, to_float, to_uint8
from gaekit.data.latents import LatentCache
from gaekit.parallel import World
from gaekit.plugins import build, nested
from gaekit.recipe import canonical
from gaekit.recipe.schema import Evaluate, Recipe
from gaekit.stages.job import Job
from gaekit.stages.sample import read_protocol
from gaekit.stages.stage import Stage
from gaekit.store.files import atomic, sha256_file, sha256_json, write_json
from gaekit.store.models import Autoencoder, load_autoencoder
from gaekit.store.npz import npz_length, npz_names, npz_rows
from gaekit.store.room import Room
from gaekit.store.shard_reader import read_manifest

Numbers = dict[str, dict[str, Any]]
T = TypeVar("T")
REFERENCES, STATE = "references", "reference.safetensors"
BATCHES_AT_ONCE = 8
"""Batches of each rank whose rows are sent to a metric's owner at once."""


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    return {"image": recipe.image, "evaluate": recipe.evaluate}


def run(job: Job) -> dict[str, Any]:
    """Compute every metric of the recipe into `metrics.json`: {"<what>/<metric>": {"value", "protocol"}}."""
    section = job.recipe.evaluate
    assert isinstance(section, Evaluate)
    numbers: Numbers = {}
    numbers |= _of_pairs(job, section)
    numbers |= _of_latents(job, section)
    if "sample" in job.inputs:
        numbers |= _of_samples(job, section, sorted(job.inputs["sample"].parent.glob("samples*.npz")))
    if job.world.is_rank0:
        write_json(job.room.out / STAGE.artifact, dict(sorted(numbers.items())))
    values = {name: entry["value"] for name, entry in sorted(numbers.items())}
    for name, value in values.items():
        job.reporter.say(f"  {name:<44} {value:.4f}")
    without = [c.use for c in section.metrics if _left_out(job.registry.find("metric", c.use), job)]  # type: ignore[arg-type]
    if without:
        job.reporter.say(f"  left out, since the data has no classes: {', '.join(without)}")
    job.show(values, {})
    return {**values, "left_out": without}


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


def _judged(job: Job, section: Evaluate, needs: str) -> Judged:
    """The recipe's metrics of one sort. Those that need classes are left out, and listed, where the data has none."""
    found = [(config, job.registry.find("metric", config.use)) for config in section.metrics]
    chosen = [c for c, cls in found if issubclass(cls, Metric) and cls.needs == needs and not _left_out(cls, job)]
    sizes = {"image_size": job.recipe.image.size, "classes": job.data.dataset.classes}
    metrics = {place: build(Metric, config, job.registry, **sizes) for place, config in enumerate(chosen)}
    return Judged(metrics, dict(enumerate(chosen)), job.world)


@torch.no_grad()
def _extracted(job: Job, metric: Metric, pixels_BRR3: Tensor) -> Tensor:
    """What a metric looks at of images, to be sent to its owner: images go as uint8 (B, R, R, 3)."""
    if type(metric).extract is Metric.extract:
        return pixels_BRR3
    return metric.extract(to_float(pixels_BRR3).to(job.device)).cpu()


def _received(job: Job, metric: Metric, sent: Tensor) -> Tensor:
    """Inverse of the sending, on the device."""
    return (to_float(sent) if type(metric).extract is Metric.extract else sent).to(job.device)


def _handed(judged: Judged, own: Iterator[dict[int, T]]) -> Iterator[tuple[Metric, T]]:
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


def _own_batches(job: Job, images: Images, size: int, title: str) -> Iterator[ImageBatch]:
    """This rank's batches of a split: of each `ranks` in turn, one."""
    spans = [range(first, min(first + size, len(images))) for first in range(0, len(images), size)]
    own = spans[job.world.rank :: job.world.size]
    with job.reporter.bar(title, sum(map(len, own)) * job.world.size) as bar:
        for batch in images.in_order(size, spans=own):
            yield batch
            bar.advance(len(batch) * job.world.size)


def _left_out(metric: type[Metric], job: Job) -> bool:
    return metric.needs_classes and len(job.data.dataset.classes) < 2


def _numbers(job: Job, prefix: str, judged: Judged, facts: dict[str, Any]) -> Numbers:
    """What every rank's metrics found, in the recipe's order, on every rank."""
    mine = {place: (metric.compute(), metric.protocol()) for place, metric in judged.own.items()}
    everywhere = {place: result for part in job.world.all_gather(mine) for place, result in part.items()}
    found: Numbers = {}
    for place in sorted(everywhere):
        values, protocol = everywhere[place]
        for name, value in values.items():
            number = 1 + sum(key.rpartition("#")[0] == f"{prefix}/{name}" or key == f"{prefix}/{name}" for key in found)
            key = f"{prefix}/{name}" if number == 1 else f"{prefix}/{name}#{number}"
            found[key] = {"value": value, "protocol": {**facts, **protocol}}
    return found


def _of_pairs(job: Job, section: Evaluate) -> Numbers:
    judged = _judged(job, section, "pairs")
    if not judged.metrics:
        return {}
    model, images = _autoencoder(job), job.images("validation")
    judged.ready(job.device)
    pairs = (
        {n: (_extracted(job, metric, real), _extracted(job, metric, fake)) for n, metric in judged.metrics.items()}
        for real, fake in _reconstructed(job, model, _own_batches(job, images, section.batch, "reconstructions"))
    )
    for metric, (real, fake) in _handed(judged, pairs):
        metric.update(_received(job, metric, real), _received(job, metric, fake))
    facts = {"split": "validation", "of": "reconstruction of the latent's mean, 8 bit"}
    return _numbers(job, "reconstruction", judged, facts | _data_facts(job, images))


@torch.no_grad()
def _reconstructed(job: Job, model: Autoencoder, batches: Iterator[ImageBatch]) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, their reconstructions) as uint8, on the CPU."""
    for batch in batches:
        fake = model.reconstruct(batch.to(job.device).image_B3RR).float()
        yield batch.pixels_BRR3, to_uint8(fake).cpu()


def _of_latents(job: Job, section: Evaluate) -> Numbers:
    judged = _judged(job, section, "latents")
    if not judged.metrics:
        return {}
    model, images = _autoencoder(job), job.images("validation")
    for metric, (latent, label) in _handed(judged, _for_all(judged, _training_latents(job, section, model))):
        metric.reference(latent, label)
    judged.ready(job.device)
    for metric, (latent, label) in _handed(judged, _for_all(judged, _encoded(job, images, section.batch, model))):
        metric.update(latent, label)
    facts = {"of": "latent means, as the regularizer gives them"} | _data_facts(job, images)
    return _numbers(job, "latents", judged, facts)


def _for_all(judged: Judged, batches: Iterator[T]) -> Iterator[dict[int, T]]:
    """The same for each metric."""
    return (dict.fromkeys(judged.metrics, batch) for batch in batches)


def _training_latents(job: Job, section: Evaluate, model: Autoencoder) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's (latent_BDHW, label_B) of the training split."""
    if "latents" in job.inputs and not read_manifest(job.inputs["latents"]).get("online"):
        batches = LatentCache(job.inputs["latents"]).in_order(section.batch)
        for batch in itertools.islice(batches, job.world.rank, None, job.world.size):
            yield batch.latent_BDHW, batch.label_B
    else:
        yield from _encoded(job, job.images("train"), section.batch, model)


@torch.no_grad()
def _encoded(job: Job, images: Images, size: int, model: Autoencoder) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in _own_batches(job, images, size, "latents"):
        yield model.encode(batch.to(job.device).image_B3RR)[1].mean_BDHW.float().cpu(), batch.label_B


def _of_samples(job: Job, section: Evaluate, files: list[Path]) -> Numbers:
    """Every series of samples by every metric of samples; what they are compared with is taken in once."""
    judged = _judged(job, section, "samples")
    with_references(job, judged, section.batch)
    judged.ready(job.device)
    numbers: Numbers = {}
    for file in files if judged.metrics else ():
        copies = {place: copy.deepcopy(metric) for place, metric in judged.own.items()}
        numbers |= _of_series(job, section, file, replace(judged, metrics=judged.metrics | copies))
    return numbers


def with_references(job: Job, judged: Judged, size: int) -> None:
    """Have the metrics of samples take in the real images: what an evaluation of the same images by the same metric
    kept, else every image once, by one rank."""
    facts = {place: _reference_facts(job, judged, place) for place, metric in judged.metrics.items() if metric.split}
    rooms = {place: Room(job.store / REFERENCES / sha256_json(found)[:12]) for place, found in facts.items()}
    job.caches += [f"{job.store.name}/{REFERENCES}/{room.path.name}" for room in rooms.values()]
    kept = job.world.on_rank0(lambda: {place for place, room in rooms.items() if room.done() is not None})
    for place in kept & judged.own.keys():
        judged.metrics[place].load_reference(load_file(rooms[place].path / STATE))
    wanting = judged.only(place for place, metric in judged.metrics.items() if metric.split and place not in kept)
    for split in sorted({str(metric.split) for metric in wanting.metrics.values()}):
        of_split = wanting.only(place for place, metric in wanting.metrics.items() if metric.split == split)
        batches = (
            {place: (_extracted(job, metric, b.pixels_BRR3), b.label_B) for place, metric in of_split.metrics.items()}
            for b in _own_batches(job, job.images(split), size, f"{split} images")
        )
        for metric, (sent, label) in _handed(of_split, batches):
            metric.reference(_received(job, metric, sent), label)
    for place, metric in wanting.own.items():
        if (state := metric.reference_state()) is not None:
            _keep(rooms[place], facts[place], state)
    job.world.barrier()


def _reference_facts(job: Job, judged: Judged, place: int) -> dict[str, Any]:
    """What decides what a metric takes in of the real images."""
    metric, config = judged.metrics[place], judged.configs[place]
    inner = [(job.registry.find(kind, part.use), part) for kind, part in nested(config)]
    return {
        "metric": canonical(config),
        "components": [
            {"name": f"{cls.kind}:{cls.name}", "revision": cls.revision, "external": cls.external(part)}
            for cls, part in ((type(metric), config), *inner)
        ],
        "split": metric.split,
        "dataset": job.data.dataset.digest(),
        "on_bad_image": job.data.dataset.on_bad_image,
        "image_size": job.recipe.image.size,
    }


def _keep(room: Room, facts: dict[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write what a metric took in. Two runs at once write the same, and either appears whole."""
    with atomic(room.path / STATE) as part:
        save_file({name: value.contiguous() for name, value in state.items()}, part)
    room.describe(facts)
    room.finish({"holds": "what a metric took in of the real images"})


def _of_series(job: Job, section: Evaluate, file: Path, judged: Judged) -> Numbers:
    ranks = job.world
    batches = (
        {place: (_extracted(job, metric, pixels), label) for place, metric in judged.metrics.items()}
        for pixels, label in _generated(file, section.batch, ranks.rank, ranks.size)
    )
    for metric, (sent, label_B) in _handed(judged, batches):
        metric.update(_received(job, metric, sent), label_B)
    facts = {
        "images": npz_length(file, "arr_0"),
        "samples": {"file": file.name, "sha256": ranks.on_rank0(lambda: sha256_file(file))},
        "sampling": read_protocol(file),
        "dataset": job.data.digest,
    }
    return _numbers(job, file.stem, judged, facts)


def _generated(file: Path, size: int, first: int, every: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of batches of an .npz: number `first` and every `every`-th after it. Labels are 0 where
    it holds none."""
    labels = npz_rows(file, "arr_1", size, first, every) if "arr_1" in npz_names(file) else None
    for block in npz_rows(file, "arr_0", size, first, every):
        yield (
            torch.from_numpy(block),
            torch.from_numpy(next(labels)) if labels else torch.zeros(len(block), dtype=torch.int64),
        )


def _data_facts(job: Job, images: Images) -> dict[str, Any]:
    skipped = job.skipped(images)
    return {"dataset": job.data.digest, "skipped_images": skipped, "images": len(images) - len(skipped)}


def _autoencoder(job: Job) -> Autoencoder:
    model = load_autoencoder(job.inputs["autoencoder"], job.registry)
    job.machine.prepare(model.encoder)
    job.machine.prepare(model.decoder)
    return model.to(job.device)


STAGE = Stage(
    name="evaluate",
    revision=2,  # extracted over ranks, moments by blocks
    artifact="metrics.json",
    needs=("autoencoder",),
    optional=("latents", "sample"),
    reads_data=True,
    parts=parts,
    run=run,
)
