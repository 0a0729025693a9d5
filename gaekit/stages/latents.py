"""Stage 3: encode every training image, and its mirror image from the same decode, into the cache that the denoiser
reads; or, for latents that are made anew at every step, only measure them."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gaekit.data.images import ImageBatch, Images
from gaekit.data.latents import INDEX, LABEL, LATENT, MIRROR
from gaekit.errors import DataError
from gaekit.guard import without_images
from gaekit.recipe.schema import Latents, Recipe
from gaekit.stages.job import Job
from gaekit.stages.stage import Stage
from gaekit.store.files import human_size, sha256_file
from gaekit.store.models import Autoencoder, load_autoencoder
from gaekit.store.moments import Moments
from gaekit.store.shard_reader import ShardReader
from gaekit.store.shards import Rows, ShardWriter
from gaekit.train.precision import computing, resolve_precision

SHARD_BYTES = 256 << 20
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    return {"image": recipe.image, "latents": recipe.latents}


def run(job: Job) -> dict[str, Any]:
    """Fill the cache, going on with the shards that are not there whole; returns what DONE records.

    Every rank writes shards of its own; the first measures them all and writes the manifest, for which the others wait.
    """
    section = job.recipe.latents
    assert isinstance(section, Latents)
    section = job.settled(section)
    model = load_encoder(job, section)
    images = job.images("train")
    rows = rows_per_shard(section, model.spec.latent_dim, model.spec.grid)
    measure = partial(_measure, section, model.spec.latent_dim) if section.normalize == "channel" else None
    writer = ShardWriter(job.room.out / STAGE.artifact, rows, 0 if section.online else len(images), job.world, measure)
    moments = _moments_of_images(job, section, model, images) if section.online else None
    _fill(job, section, model, images, writer)
    job.world.barrier()
    return job.world.on_rank0(lambda: _finish(job, section, model, images, writer, moments))


def _finish(
    job: Job, section: Latents, model: Autoencoder, images: Images, writer: ShardWriter, moments: _LatentMoments | None
) -> dict[str, Any]:
    """Write the manifest over what all ranks wrote; returns what DONE records."""
    reader = writer.reader()
    if moments is None:
        moments = _LatentMoments(model.spec.latent_dim)
        for found in writer.measured():
            moments.merge(_LatentMoments.from_json(found))
        _learn_skipped(images, reader)
        _tell_absent_classes(job, images, reader)
    statistics = _statistics(section, moments, model.spec.latent_dim)
    writer.finish({**_facts(job, model, section, images), **statistics})
    extremes = {
        f"latents/{name}_{which.__name__}": which(values)
        for name, values in statistics["statistics"].items()
        for which in (min, max)
    }
    job.show(extremes, {})
    size = human_size(sum(shard["bytes"] for shard in reader.facts["shards"]))
    made = {"images": len(images) - len(images.skipped), "size": size, "precision": section.precision}
    return made | {"skipped_images": dict(images.skipped)}


def load_encoder(job: Job, section: Latents) -> Autoencoder:
    """The run's autoencoder, of which what encodes is on the device."""
    model = load_autoencoder(job.inputs["autoencoder"], job.registry)
    job.machine.prepare(model.encoder, section.precision)
    model.regularizer.to(job.device)
    return model


def rows_per_shard(section: Latents, latent_dim: int, grid: int) -> int:
    """How many images a shard spans: whole batches."""
    numbers = latent_dim * grid**2 * (2 if section.store == "moments" else 1)
    row = numbers * DTYPES[section.dtype].itemsize * (2 if section.flip else 1)
    return max(1, SHARD_BYTES // row // section.batch) * section.batch


def _fill(job: Job, section: Latents, model: Autoencoder, images: Images, writer: ShardWriter) -> None:
    if not writer.missing:
        return  # before processes that decode are started
    with writer, job.reporter.bar(STAGE.name, sum(map(len, writer.missing))) as bar:
        for batch in images.in_order(section.batch, spans=writer.missing):
            writer.add(_encoded(job, section, model, batch))
            bar.advance(len(batch))


def _encoded(job: Job, section: Latents, model: Autoencoder, batch: ImageBatch) -> Rows:
    there = batch.to(job.device)
    rows = {LATENT: encode(model, there, section), LABEL: batch.label_B, INDEX: batch.index_B}
    if section.flip:
        rows[MIRROR] = encode(model, there.mirrored(), section)
    return rows


@torch.no_grad()
def encode(model: Autoencoder, batch: ImageBatch, section: Latents) -> Tensor:
    """The latents' means (B, D, H, W), or means and deviations (B, 2D, H, W), in the type that the section says."""
    device = batch.pixels_BRR3.device
    with computing(resolve_precision(section.precision, device), device):
        _, latent = model.encode(batch.image_B3RR)
    mean = latent.mean_BDHW.float()
    if section.store == "moments":
        mean = torch.cat([mean, torch.as_tensor(latent.std_BDHW, device=mean.device).float().expand_as(mean)], dim=1)
    return mean.to(DTYPES[section.dtype])


def _learn_skipped(images: Images, reader: ShardReader) -> None:
    """Have `images.skipped` name what the cache leaves out, also what other ranks and earlier runs skipped."""
    left_out = torch.ones(len(images), dtype=torch.bool)
    for index in reader.shards(INDEX):
        left_out[index] = False
    if bool(left_out.any()):
        spans = [[index] for index in left_out.nonzero().flatten().tolist()]
        deque(images.in_order(1, spans=spans), maxlen=0)


def _tell_absent_classes(job: Job, images: Images, reader: ShardReader) -> None:
    """Where labels came with the images alone, only now it is known whether every class has one."""
    classes = job.data.dataset.classes
    if classes and images.labels is None:
        counts = sum(torch.bincount(label, minlength=len(classes)) for label in reader.shards(LABEL))
        if line := without_images(torch.as_tensor(counts).reshape(-1).tolist(), classes):
            job.reporter.say(f"  {line}")


def _facts(job: Job, model: Autoencoder, section: Latents, images: Images) -> dict[str, Any]:
    return {
        "format": 1,
        "latent_dim": model.spec.latent_dim,
        "grid": model.spec.grid,
        "store": section.store,
        "precision": section.precision,
        "flip": section.flip,
        "dtype": str(DTYPES[section.dtype]).removeprefix("torch."),
        "classes": list(job.data.dataset.classes),
        "autoencoder": sha256_file(job.inputs["autoencoder"]),
        "dataset": job.data.digest,
        "skipped": dict(images.skipped),
        **({"online": True} if section.online else {}),
    }


class _LatentMoments:
    """Mean and deviation of latents; of the posterior's samples, where they come as moments."""

    def __init__(self, channels: int):
        self.channels = channels
        self.means, self.variances = Moments(channels), Moments(channels)

    def add(self, latent: Tensor) -> None:
        self.means.add(latent[:, : self.channels])
        if latent.shape[1] > self.channels:
            self.variances.add(latent[:, self.channels :].double().square())

    def merge(self, other: _LatentMoments) -> None:
        self.means.merge(other.means)
        self.variances.merge(other.variances)

    def to_json(self) -> dict[str, Any]:
        return {"means": self.means.to_json(), "variances": self.variances.to_json()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> _LatentMoments:
        made = cls(len(found["means"]["mean"]))
        made.means, made.variances = (Moments.from_json(found[key]) for key in ("means", "variances"))
        return made


def _measure(section: Latents, channels: int, rows: Rows) -> dict[str, Any]:
    """The moments of a shard's latents, both mirrors."""
    moments = _LatentMoments(channels)
    for name in (LATENT, MIRROR) if section.flip else (LATENT,):
        for part in torch.split(rows[name], section.batch):
            moments.add(part)
    return moments.to_json()


def _moments_of_images(job: Job, section: Latents, model: Autoencoder, images: Images) -> _LatentMoments:
    """Of latents that are not kept: over all images, or `latents.images` of them spread evenly. Each rank encodes
    batches of its own; merged in their order, so that the number of ranks changes nothing."""
    total, world = _LatentMoments(model.spec.latent_dim), job.world
    if section.normalize != "channel":
        return total
    count = min(section.images or len(images), len(images))
    chosen = [place * len(images) // count for place in range(count)]
    spans = [chosen[first : first + section.batch] for first in range(0, count, section.batch)]
    mine = spans[world.rank :: world.size]
    found: dict[int, _LatentMoments] = {}
    with job.reporter.bar(STAGE.name, sum(map(len, mine))) as bar:
        for batch in images.in_order(section.batch, spans=mine):
            moments = found[int(batch.index_B[0])] = _LatentMoments(model.spec.latent_dim)
            for name, rows in _encoded(job, section, model, batch).items():
                if name in (LATENT, MIRROR):
                    moments.add(rows)
            bar.advance(len(batch))
    everywhere = {index: moments for part in world.all_gather(found) for index, moments in part.items()}
    for index in sorted(everywhere):
        total.merge(everywhere[index])
    images.skipped.update(job.skipped(images))
    return total


def _statistics(section: Latents, moments: _LatentMoments, channels: int) -> dict[str, Any]:
    """How the denoiser's latents are standardised."""
    if section.normalize == "channel":
        if not moments.means.count:
            raise DataError("latents: not one image of the data set could be read")
        variance = moments.means.std.square() + moments.variances.mean
        mean, std = moments.means.mean, variance.sqrt()
    else:
        factor = section.scale if section.normalize == "scalar" and section.scale else 1.0
        mean, std = torch.zeros(channels), torch.full((channels,), 1.0 / factor)
    return {"normalize": section.normalize, "statistics": {"mean": mean.tolist(), "std": std.tolist()}}


STAGE = Stage(
    name="latents", revision=2, artifact="latents", needs=("autoencoder",), reads_data=True, parts=parts, run=run
)
