"""Stage 6: numbers about the reconstructions, the samples and the latents, each with its protocol.

Over several ranks, each decodes, encodes and reconstructs every so-manieth batch for all of them, and each computes
some of the metrics, every image in the same order: no number depends on how many ranks there are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gaekit.api import Metric
from gaekit.data.images import ImageBatch, Images, to_float, to_uint8
from gaekit.data.latents import LatentCache
from gaekit.plugins import build
from gaekit.recipe.schema import Evaluate, Recipe
from gaekit.stages.job import Job
from gaekit.stages.sample import read_protocol
from gaekit.stages.stage import Stage
from gaekit.store.files import sha256_file, write_json
from gaekit.store.models import Autoencoder, load_autoencoder
from gaekit.store.npz import npz_names, npz_rows
from gaekit.store.shard_reader import read_manifest

Numbers = dict[str, dict[str, Any]]
T = TypeVar("T")


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
class Judges:
    """The metrics of one sort: `all` of the recipe's, of which this rank has `mine` to compute."""

    all: list[type[Metric]]
    mine: dict[int, Metric]

    def ready(self, device: torch.device) -> None:
        """Say that every reference is in; a copy of them that is made hereafter needs it no more."""
        for metric in self.mine.values():
            metric.ready(device)


def _judges(job: Job, section: Evaluate, needs: str) -> Judges:
    """The recipe's metrics of one sort. Those that need classes are left out, and listed, where the data has none."""
    found = [(config, job.registry.find("metric", config.use)) for config in section.metrics]
    chosen = [
        (c, cls) for c, cls in found if issubclass(cls, Metric) and cls.needs == needs and not _left_out(cls, job)
    ]
    sizes = {"image_size": job.recipe.image.size, "classes": job.data.dataset.classes}
    own = range(job.world.rank, len(chosen), job.world.size)
    mine = {place: build(Metric, chosen[place][0], job.registry, **sizes) for place in own}
    return Judges([cls for _, cls in chosen], mine)


def _round(job: Job, batches: Iterator[T]) -> Iterator[T]:
    """Every rank's batches on every rank, one of each in turn."""
    while True:
        found = job.world.all_gather(next(batches, None))
        if all(batch is None for batch in found):
            return
        yield from (batch for batch in found if batch is not None)


def _own_batches(job: Job, images: Images, size: int) -> Iterator[ImageBatch]:
    """This rank's batches of a split: of each `ranks` in turn, one."""
    spans = [range(first, min(first + size, len(images))) for first in range(0, len(images), size)]
    yield from images.in_order(size, spans=spans[job.world.rank :: job.world.size])


def _left_out(metric: type[Metric], job: Job) -> bool:
    return metric.needs_classes and len(job.data.dataset.classes) < 2


def _numbers(job: Job, prefix: str, judges: Judges, facts: dict[str, Any]) -> Numbers:
    """What every rank's metrics found, in the recipe's order, on every rank."""
    mine = {place: (metric.compute(), metric.protocol()) for place, metric in judges.mine.items()}
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
    judges = _judges(job, section, "pairs")
    if not judges.all:
        return {}
    model, images = _autoencoder(job), job.images("validation")
    judges.ready(job.device)
    with job.reporter.bar("reconstructions", len(images)) as bar:
        for real, fake in _round(job, _reconstructed(job, model, _own_batches(job, images, section.batch))):
            for metric in judges.mine.values():
                metric.update(to_float(real).to(job.device), to_float(fake).to(job.device))
            bar.advance(len(real))
    facts = {"split": "validation", "of": "reconstruction of the latent's mean, 8 bit"}
    return _numbers(job, "reconstruction", judges, facts | _data_facts(job, images))


@torch.no_grad()
def _reconstructed(job: Job, model: Autoencoder, batches: Iterator[ImageBatch]) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, their reconstructions) as uint8, on the CPU."""
    for batch in batches:
        fake = model.reconstruct(batch.to(job.device).image_B3RR).float()
        yield batch.pixels_BRR3, to_uint8(fake).cpu()


def _of_latents(job: Job, section: Evaluate) -> Numbers:
    judges = _judges(job, section, "latents")
    if not judges.all:
        return {}
    model = _autoencoder(job)
    for latent, label in _training_latents(job, section, model):
        for metric in judges.mine.values():
            metric.reference(latent, label)
    judges.ready(job.device)
    images = job.images("validation")
    for latent, label in _encode(job, images, section.batch, model):
        for metric in judges.mine.values():
            metric.update(latent, label)
    facts = {"of": "latent means, as the regularizer gives them"} | _data_facts(job, images)
    return _numbers(job, "latents", judges, facts)


def _training_latents(job: Job, section: Evaluate, model: Autoencoder) -> Iterator[tuple[Tensor, Tensor]]:
    if "latents" in job.inputs and not read_manifest(job.inputs["latents"]).get("online"):
        for batch in LatentCache(job.inputs["latents"]).in_order(section.batch):
            yield batch.latent_BDHW, batch.label_B
    else:
        yield from _encode(job, job.images("train"), section.batch, model)


def _encode(job: Job, images: Images, size: int, model: Autoencoder) -> Iterator[tuple[Tensor, Tensor]]:
    with job.reporter.bar("latents", len(images)) as bar:
        for latent, label in _round(job, _encoded(job, model, _own_batches(job, images, size))):
            yield latent, label
            bar.advance(len(label))


@torch.no_grad()
def _encoded(job: Job, model: Autoencoder, batches: Iterator[ImageBatch]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        yield model.encode(batch.to(job.device).image_B3RR)[1].mean_BDHW.float().cpu(), batch.label_B


def _of_samples(job: Job, section: Evaluate, files: list[Path]) -> Numbers:
    """Every series of samples by every metric of samples; what they are compared with is taken in once."""
    judges = _judges(job, section, "samples")
    splits = {metric.split for metric in judges.mine.values() if metric.split is not None}
    for split in sorted({split for found in job.world.all_gather(splits) for split in found}):
        images = job.images(split)
        pixels = ((b.pixels_BRR3, b.label_B) for b in _own_batches(job, images, section.batch))
        with job.reporter.bar(f"{split} images", len(images)) as bar:
            for image, label in _round(job, pixels):
                for metric in judges.mine.values():
                    if metric.split == split:
                        metric.reference(to_float(image).to(job.device), label)
                bar.advance(len(label))
    judges.ready(job.device)
    numbers: Numbers = {}
    for file in files if judges.all else ():
        numbers |= _judge(job, section, file, Judges(judges.all, copy.deepcopy(judges.mine)))
    return numbers


def _judge(job: Job, section: Evaluate, file: Path, judges: Judges) -> Numbers:
    count = 0
    for pixels, label_B in _generated(file, section.batch):
        count += len(pixels)
        for metric in judges.mine.values():
            metric.update(to_float(pixels).to(job.device), label_B)
    facts = {
        "images": count,
        "samples": {"file": file.name, "sha256": sha256_file(file)},
        "sampling": read_protocol(file),
        "dataset": job.data.digest,
    }
    return _numbers(job, file.stem, judges, facts)


def _generated(file: Path, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of an .npz; labels are 0 where it holds none."""
    labels = npz_rows(file, "arr_1", size) if "arr_1" in npz_names(file) else None
    for block in npz_rows(file, "arr_0", size):
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
    revision=1,
    artifact="metrics.json",
    needs=("autoencoder",),
    optional=("latents", "sample"),
    reads_data=True,
    parts=parts,
    run=run,
)
