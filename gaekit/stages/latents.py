"""Stage 3: encode every training image, and its mirror image from the same decode, into the cache that the denoiser
reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaekit.data.images import Images
from gaekit.data.latents import INDEX, LABEL, LATENT, MIRROR
from gaekit.recipe.schema import Latents, Recipe
from gaekit.stages.job import Job
from gaekit.store.files import human_size, sha256_file
from gaekit.store.models import Autoencoder, load_autoencoder
from gaekit.store.shards import Moments, ShardReader, ShardWriter
from gaekit.train.training import autocast, resolve_precision

NAME = "latents"
REVISION = 1
NEEDS = ("autoencoder",)
ARTIFACT = "latents"
READS_DATA = True
SHARD_BYTES = 256 << 20
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    return {"image": recipe.image, "latents": recipe.latents}


def run(job: Job) -> dict[str, Any]:
    """Fill the cache, going on after the last whole shard; returns what DONE records."""
    section = job.recipe.latents
    assert isinstance(section, Latents)
    model = load_autoencoder(job.inputs["autoencoder"], job.registry)
    job.prepare(model.encoder, section.precision)
    model.to(job.device)
    images = job.images("train")
    folder = job.room.out / ARTIFACT
    writer = ShardWriter(folder, _rows_per_shard(section, model))
    start = writer.next_index
    with job.reporter.bar(NAME, len(images), start) as bar:
        for batch in images.in_order(section.batch, start=start):
            on_device = batch.to(job.device)
            rows = {LATENT: _encode(model, on_device.image_B3RR, section), LABEL: batch.label_B, INDEX: batch.index_B}
            if section.flip:
                rows[MIRROR] = _encode(model, on_device.image_B3RR.flip(-1), section)
            writer.add(rows)
            bar.advance(len(batch))
    reader = writer.reader()
    statistics = _statistics(reader, section, model.spec.latent_dim)
    writer.finish({**_facts(job, model, section, images), **statistics})
    for name, values in statistics["statistics"].items():
        job.show({f"latents/{name}_least": min(values), f"latents/{name}_most": max(values)}, {})
    size = sum((folder / shard["file"]).stat().st_size for shard in writer.shards)
    return {"images": writer.written, "size": human_size(size), "skipped_images": dict(images.skipped)}


def _rows_per_shard(section: Latents, model: Autoencoder) -> int:
    numbers = model.spec.latent_dim * model.spec.grid**2 * (2 if section.store == "moments" else 1)
    row = numbers * DTYPES[section.dtype].itemsize * (2 if section.flip else 1)
    return max(1, SHARD_BYTES // row // section.batch) * section.batch


@torch.no_grad()
def _encode(model: Autoencoder, image: Tensor, section: Latents) -> Tensor:
    with autocast(resolve_precision(section.precision, image.device), image.device):
        _, latent = model.encode(image)
    mean = latent.mean_BDHW.float()
    if section.store == "moments":
        mean = torch.cat([mean, torch.as_tensor(latent.std_BDHW, device=mean.device).float().expand_as(mean)], dim=1)
    return mean.to(DTYPES[section.dtype])


def _facts(job: Job, model: Autoencoder, section: Latents, images: Images) -> dict[str, Any]:
    return {
        "format": 1,
        "latent_dim": model.spec.latent_dim,
        "grid": model.spec.grid,
        "store": section.store,
        "flip": section.flip,
        "classes": list(job.dataset.classes),
        "autoencoder": sha256_file(job.inputs["autoencoder"]),
        "dataset": job.dataset.digest(),
        "skipped": dict(images.skipped),
    }


def _statistics(reader: ShardReader, section: Latents, channels: int) -> dict[str, Any]:
    """Standardisation over the whole cache, both mirrors; of the posterior's samples, where the cache holds moments."""
    if section.normalize == "channel":
        means, variances = Moments(channels), Moments(channels)
        for name in (LATENT, MIRROR) if section.flip else (LATENT,):
            for shard in reader.shards(name):
                means.add(shard[:, :channels])
                if section.store == "moments":
                    variances.add(shard[:, channels:].double().square())
        mean, std = means.mean, (means.std.square() + variances.mean).sqrt()
    else:
        factor = section.scale if section.normalize == "scalar" and section.scale else 1.0
        mean, std = torch.zeros(channels), torch.full((channels,), 1.0 / factor)
    return {"normalize": section.normalize, "statistics": {"mean": mean.tolist(), "std": std.tolist()}}
