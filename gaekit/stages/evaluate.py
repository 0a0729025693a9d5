"""Stage 6: numbers about the reconstructions, the samples and the latents, each with its protocol.

Over several ranks, the batches of images are dealt out: each rank decodes, encodes and reconstructs its own, and
extracts what each metric looks at (`judging`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaekit.api import ComponentConfig, Encoded
from gaekit.data.images import Images
from gaekit.data.latents import LatentCache
from gaekit.recipe.schema import Evaluate, Recipe
from gaekit.stages.evaluation import Evaluation
from gaekit.stages.job import Job
from gaekit.stages.judging import (
    PER_IMAGE,
    Judged,
    Numbers,
    judge_latents,
    judge_pairs,
    judge_samples,
    judges_of,
    left_out,
    own_batches,
    results,
)
from gaekit.stages.references import Reconstructor, with_references
from gaekit.stages.sample import read_protocol
from gaekit.stages.stage import Stage
from gaekit.store.files import sha256_file, write_json
from gaekit.store.npz import NpzWriter, npz_length, npz_names, npz_rows
from gaekit.store.shard_reader import read_manifest


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    return {"image": recipe.image, "evaluate": recipe.evaluate}


def run(job: Job) -> dict[str, Any]:
    """Compute every metric of the recipe into `metrics.json`: {"<what>/<metric>": {"value", "interval", "protocol"}},
    and of means over held-out images every image's own value into `per_image.npz`, by the same names."""
    section = job.recipe.evaluate
    assert isinstance(section, Evaluate)
    numbers: Numbers = {}
    model = Reconstructor(job, job.inputs["autoencoder"])
    numbers |= reconstruction_numbers(job, section.metrics, section.batch, model)
    numbers |= latent_numbers(job, section.metrics, section.batch, model, job.inputs.get("latents"))
    if "sample" in job.inputs:
        numbers |= _of_samples(job, section, sorted(job.inputs["sample"].parent.glob("samples*.npz")), model)
    numbers = dict(sorted(numbers.items()))
    per_image = {name: entry.pop(PER_IMAGE) for name, entry in numbers.items() if PER_IMAGE in entry}
    if job.world.is_rank0:
        _write_per_image(job.room.out / f"{PER_IMAGE}.npz", per_image)
        write_json(job.room.out / STAGE.artifact, numbers)
    values = {name: entry["value"] for name, entry in numbers.items()}
    for name, entry in numbers.items():
        low, high = entry.get("interval", (None, None))
        within = "" if low is None else f"  ({low:.4f} to {high:.4f})"
        job.reporter.say(f"  {name:<44} {entry['value']:.4f}{within}")
    without = [c.use for c in section.metrics if left_out(job.registry.find("metric", c.use), job)]  # type: ignore[arg-type]
    if without:
        job.reporter.say(f"  left out, since the data has no classes: {', '.join(without)}")
    job.show(values, {})
    return {**values, "left_out": without}


def _write_per_image(file: Path, per_image: dict[str, np.ndarray]) -> None:
    if per_image:
        with NpzWriter(file) as npz:
            for name, rows in per_image.items():
                npz.add(name, rows.dtype, rows.shape, [rows])


def reconstruction_numbers(
    evaluation: Evaluation, metrics: Sequence[ComponentConfig], batch: int, model: Reconstructor
) -> Numbers:
    """Those of the metrics that are about pairs: the held-out images and their reconstructions, `batch` at once."""
    judged = judges_of(evaluation, metrics, "pairs")
    if not judged.metrics:
        return {}
    images = evaluation.images("validation")
    judged.ready(evaluation.device)
    batches = own_batches(evaluation, images, batch, "reconstructions")
    judge_pairs(evaluation, judged, ((some.pixels_BRR3, model.rebuilt(some)) for some in batches))
    facts = {"split": "validation", "of": "reconstruction of the latent's mean, 8 bit"}
    return results(evaluation, "reconstruction", judged, facts | _data_facts(evaluation, images), intervals=True)


def latent_numbers(
    evaluation: Evaluation, metrics: Sequence[ComponentConfig], batch: int, model: Reconstructor,
    cache: Path | None = None,
) -> Numbers:  # fmt: skip
    """Those of the metrics that are about latents: the training split's, which `cache` holds where there is one, and
    the held-out split's."""
    judged = judges_of(evaluation, metrics, "latents")
    if not judged.metrics:
        return {}
    images = evaluation.images("validation")

    def of_split(split: str) -> Iterator[tuple[Tensor, Tensor]]:
        if split == "train" and cache is not None and not read_manifest(cache).get("online"):
            return _cached(evaluation, cache, batch)
        seen = _encoded(evaluation, evaluation.images(split), batch, model)
        return ((some.latent_BDHW.cpu(), some.label_B) for some in seen)

    judge_latents(evaluation, judged, of_split, lambda: _encoded(evaluation, images, batch, model))
    facts = {"of": "latent means, as the regularizer gives them"} | _data_facts(evaluation, images)
    return results(evaluation, "latents", judged, facts, intervals=True)


def _cached(evaluation: Evaluation, cache: Path, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's (latent_BDHW, label_B) of the training split, as they were kept."""
    world = evaluation.world
    for batch in itertools.islice(LatentCache(cache).in_order(size), world.rank, None, world.size):
        yield batch.latent_BDHW, batch.label_B


def _encoded(evaluation: Evaluation, images: Images, size: int, model: Reconstructor) -> Iterator[Encoded]:
    for batch in own_batches(evaluation, images, size, "latents"):
        yield model.encoded(batch)


def _of_samples(job: Job, section: Evaluate, files: list[Path], model: Reconstructor) -> Numbers:
    """Every series of samples by every metric of samples; what they are compared with is taken in once."""
    judged = judges_of(job, section.metrics, "samples")
    with_references(job, judged, section.batch, model)
    judged.ready(job.device)
    numbers: Numbers = {}
    for file in files if judged.metrics else ():
        numbers |= _of_series(job, section, file, judged.copies())
    return numbers


def _of_series(job: Job, section: Evaluate, file: Path, judged: Judged) -> Numbers:
    ranks = job.world
    judge_samples(job, judged, _generated(file, section.batch, ranks.rank, ranks.size))
    facts = {
        "images": npz_length(file, "arr_0"),
        "samples": {"file": file.name, "sha256": ranks.on_rank0(lambda: sha256_file(file))},
        "sampling": read_protocol(file),
        "dataset": job.data.digest,
        "image_size": job.recipe.image.size,
    }
    return results(job, file.stem, judged, facts, intervals=True)


def _generated(file: Path, size: int, first: int, every: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images, labels) of batches of an .npz: number `first` and every `every`-th after it. Labels are 0 where
    it holds none."""
    labels = npz_rows(file, "arr_1", size, first, every) if "arr_1" in npz_names(file) else None
    for block in npz_rows(file, "arr_0", size, first, every):
        yield (
            torch.from_numpy(block),
            torch.from_numpy(next(labels)) if labels else torch.zeros(len(block), dtype=torch.int64),
        )


def _data_facts(evaluation: Evaluation, images: Images) -> dict[str, Any]:
    skipped = evaluation.skipped(images)
    return {"dataset": evaluation.data.digest, "skipped_images": skipped, "images": len(images) - len(skipped)}


STAGE = Stage(
    name="evaluate",
    revision=4,  # intervals, the images' size
    artifact="metrics.json",
    needs=("autoencoder",),
    optional=("latents", "sample"),
    reads_data=True,
    parts=parts,
    run=run,
)
