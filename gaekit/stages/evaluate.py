"""Stage 6: numbers about the reconstructions, the samples and the latents, each with its protocol."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaekit.api import Metric
from gaekit.data.images import Images, to_float, to_uint8
from gaekit.data.latents import LatentCache
from gaekit.plugins import build
from gaekit.recipe.schema import Evaluate, Recipe
from gaekit.stages.job import Job
from gaekit.stages.sample import read_protocol
from gaekit.store.files import sha256_file, write_json
from gaekit.store.models import Autoencoder, load_autoencoder
from gaekit.store.npz import npz_names, npz_rows

NAME = "evaluate"
REVISION = 1
NEEDS = ("autoencoder",)
OPTIONAL = ("latents", "sample")
ARTIFACT = "metrics.json"
READS_DATA = True
Numbers = dict[str, dict[str, Any]]


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
    write_json(job.room.out / ARTIFACT, dict(sorted(numbers.items())))
    values = {name: entry["value"] for name, entry in sorted(numbers.items())}
    for name, value in values.items():
        job.reporter.say(f"  {name:<44} {value:.4f}")
    without = [c.use for c in section.metrics if _left_out(job.registry.find("metric", c.use), job)]  # type: ignore[arg-type]
    if without:
        job.reporter.say(f"  left out, since the data has no classes: {', '.join(without)}")
    job.show(values, {})
    return {**values, "left_out": without}


def _metrics(job: Job, section: Evaluate, needs: str) -> list[Metric]:
    """The recipe's metrics of one sort. Those that need classes are left out, and listed, where the data has none."""
    sizes = {"image_size": job.recipe.image.size, "classes": job.dataset.classes}
    found = []
    for config in section.metrics:
        cls = job.registry.find("metric", config.use)
        assert issubclass(cls, Metric)
        if cls.needs == needs and not _left_out(cls, job):
            found.append(build(Metric, config, job.registry, **sizes))
    return found


def _left_out(metric: type[Metric], job: Job) -> bool:
    return metric.needs_classes and len(job.dataset.classes) < 2


def _numbers(prefix: str, metrics: list[Metric], facts: dict[str, Any]) -> Numbers:
    found: Numbers = {}
    for metric in metrics:
        values = metric.compute()
        for name, value in values.items():
            number = 1 + sum(key.rpartition("#")[0] == f"{prefix}/{name}" or key == f"{prefix}/{name}" for key in found)
            key = f"{prefix}/{name}" if number == 1 else f"{prefix}/{name}#{number}"
            found[key] = {"value": value, "protocol": {**facts, **metric.protocol()}}
    return found


def _of_pairs(job: Job, section: Evaluate) -> Numbers:
    metrics = _metrics(job, section, "pairs")
    if not metrics:
        return {}
    model = _autoencoder(job)
    images = job.images("validation")
    with job.reporter.bar("reconstructions", len(images)) as bar:
        for batch in images.in_order(section.batch):
            real = batch.image_B3RR.to(job.device)
            with torch.no_grad():
                fake = to_float(to_uint8(model.reconstruct(real).float()))
            for metric in metrics:
                metric.update(real, fake.to(job.device))
            bar.advance(len(batch))
    facts = {"images": len(images), "split": "validation", "of": "reconstruction of the latent's mean, 8 bit"}
    return _numbers("reconstruction", metrics, facts | _data_facts(job, images))


def _of_latents(job: Job, section: Evaluate) -> Numbers:
    metrics = _metrics(job, section, "latents")
    if not metrics:
        return {}
    model = _autoencoder(job)
    for latent, label in _training_latents(job, section, model):
        for metric in metrics:
            metric.reference(latent, label)
    images = job.images("validation")
    for latent, label in _encode(job, images, section.batch, model):
        for metric in metrics:
            metric.update(latent, label)
    return _numbers(
        "latents", metrics, {"of": "latent means, as the regularizer gives them"} | _data_facts(job, images)
    )


def _training_latents(job: Job, section: Evaluate, model: Autoencoder) -> Iterator[tuple[Tensor, Tensor]]:
    if "latents" in job.inputs:
        for batch in LatentCache(job.inputs["latents"]).in_order(section.batch):
            yield batch.latent_BDHW, batch.label_B
    else:
        yield from _encode(job, job.images("train"), section.batch, model)


def _encode(job: Job, images: Images, size: int, model: Autoencoder) -> Iterator[tuple[Tensor, Tensor]]:
    with job.reporter.bar("latents", len(images)) as bar:
        for batch in images.in_order(size):
            with torch.no_grad():
                yield model.encode(batch.image_B3RR.to(job.device))[1].mean_BDHW.float().cpu(), batch.label_B
            bar.advance(len(batch))


def _of_samples(job: Job, section: Evaluate, files: list[Path]) -> Numbers:
    """Every series of samples by every metric of samples; what they are compared with is taken in once."""
    metrics = _metrics(job, section, "samples")
    for split in sorted({metric.split for metric in metrics if metric.split is not None}):
        images = job.images(split)
        with job.reporter.bar(f"{split} images", len(images)) as bar:
            for batch in images.in_order(section.batch):
                for metric in metrics:
                    if metric.split == split:
                        metric.reference(batch.image_B3RR.to(job.device), batch.label_B)
                bar.advance(len(batch))
    numbers: Numbers = {}
    for file in files if metrics else ():
        numbers |= _judge(job, section, file, copy.deepcopy(metrics))
    return numbers


def _judge(job: Job, section: Evaluate, file: Path, metrics: list[Metric]) -> Numbers:
    count = 0
    for pixels, label_B in _generated(file, section.batch):
        count += len(pixels)
        for metric in metrics:
            metric.update(to_float(pixels).to(job.device), label_B)
    facts = {
        "images": count,
        "samples": {"file": file.name, "sha256": sha256_file(file)},
        "sampling": read_protocol(file),
        "dataset": job.dataset.digest(),
    }
    return _numbers(file.stem, metrics, facts)


def _generated(file: Path, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of an .npz; labels are 0 where it holds none."""
    labels = npz_rows(file, "arr_1", size) if "arr_1" in npz_names(file) else None
    for block in npz_rows(file, "arr_0", size):
        yield (
            torch.from_numpy(block),
            torch.from_numpy(next(labels)) if labels else torch.zeros(len(block), dtype=torch.int64),
        )


def _data_facts(job: Job, images: Images) -> dict[str, Any]:
    return {
        "dataset": job.dataset.digest(),
        "skipped_images": dict(images.skipped),
        "images": len(images) - len(images.skipped),
    }


def _autoencoder(job: Job) -> Autoencoder:
    model = load_autoencoder(job.inputs["autoencoder"], job.registry)
    job.prepare(model.encoder)
    job.prepare(model.decoder)
    return model.to(job.device)
