"""How much of the time of latent extraction is not decoding: with the encoder taken out, beside a bare loop.

    python benchmarks/latent_extraction.py

Crops of scikit-learn's two photographs, 256 px, written as JPEGs. The bare loop decodes and crops each by the data
set's own decoder and drops it. The other is the latents stage with an encoder that only pools pixels: batches, both
mirrors, shards on disk, hashes, statistics. With `--workers` both decode in that many processes.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from gaekit.api import Dataset, ImageSource
from gaekit.data.crop import center_crop
from gaekit.data.images import ImageBatch
from gaekit.plugins import build, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe
from gaekit.stages import latents
from gaekit.stages.data import Data
from gaekit.stages.job import Job
from gaekit.stages.machine import Machine
from gaekit.store.room import Room
from gaekit.train.progress import Reporter

SIZE, STRIDE, CHANNELS = 256, 16, 32
DIFFERENT = 1024
SHARD_BYTES = 16 << 20
"""Small shards: nothing overlaps the writing of the last one, which in a cache of hundreds does not count."""
RECIPE = f"""
recipe: 1
name: extraction
image: {{size: {SIZE}, stride: {STRIDE}}}
latent_dim: {CHANNELS}
dataset: {{use: image_folder, root: ROOT, classes: none}}
autoencoder: {{from: ROOT}}
latents: {{flip: true}}
runtime: {{threads: 1, cache_gb: 0, workers: WORKERS, device: cpu, trackers: []}}
"""


class Spec:
    """The sizes that the stage reads."""

    latent_dim, grid = CHANNELS, SIZE // STRIDE


class NoAutoencoder:
    """In place of an autoencoder, which has a spec."""

    spec = Spec()


def pool(model: object, batch: ImageBatch, section: object) -> Tensor:
    """In place of encoding, which begins with uint8 pixels on the device: the first of each patch, its channels
    repeated."""
    pooled = batch.pixels_BRR3[:, ::STRIDE, ::STRIDE, 0].float()
    return pooled[:, None].expand(-1, CHANNELS, -1, -1)


def write_images(folder: Path, count: int) -> None:
    """`count` crops of 256 px out of photographs of 427 x 640, as JPEGs; beyond `DIFFERENT` the same again."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    photographs = load_sample_images().images
    for index in range(min(count, DIFFERENT)):
        photograph = photographs[index % 2]
        top, left = (int(draw.integers(0, side - SIZE)) for side in photograph.shape[:2])
        crop = photograph[top : top + SIZE, left : left + SIZE]
        Image.fromarray(crop).save(folder / f"{index:05d}.jpg", quality=95)
    for index in range(DIFFERENT, count):
        os.link(folder / f"{index % DIFFERENT:05d}.jpg", folder / f"{index:05d}.jpg")


def decode_all(source: ImageSource, indices: range) -> None:
    """The bare loop."""
    for index in indices:
        center_crop(source[index][0], SIZE)


def bare(source: ImageSource, workers: int) -> None:
    """The bare loop over all images, shared out to processes where there are some."""
    if not workers:
        decode_all(source, range(len(source)))
        return
    shares = [range(first, len(source), workers) for first in range(workers)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.starmap(decode_all, zip(itertools.repeat(source), shares))


def prepare(recipe: Recipe, folder: Path) -> Job:
    """The stage's job, its data set listed: the bare loop begins with a list too."""
    machine = Machine(torch.device("cpu"), recipe.runtime, Reporter(Console(quiet=True)))
    registry = load_plugins()
    data = Data(recipe, registry)
    _ = data.digest
    return Job("latents", recipe, registry, machine, data, Room(folder), {"autoencoder": folder / "none"}, folder)


def extract(job: Job) -> None:
    """The stage as it runs, its encoder replaced."""
    with (
        mock.patch.object(latents, "load_encoder", return_value=NoAutoencoder()),
        mock.patch.object(latents, "encode", pool),
        mock.patch.object(latents, "SHARD_BYTES", SHARD_BYTES),
        mock.patch.object(latents, "sha256_file", return_value=""),  # of the autoencoder, which there is none of
    ):
        latents.run(job)


def rounds(recipe: Recipe, source: ImageSource, workers: int, root: Path, count: int) -> Iterator[tuple[float, float]]:
    """(bare, stage) images a second, by turns, so that what else the machine does weighs on both."""
    for number in range(count):
        job = prepare(recipe, root / f"room{number}")
        start = time.perf_counter()
        bare(source, workers)
        middle = time.perf_counter()
        extract(job)
        yield len(source) / (middle - start), len(source) / (time.perf_counter() - middle)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8192, help="images")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode; 0 is none")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        write_images(root / "images", given.count)
        text = RECIPE.replace("ROOT", str(root / "images")).replace("WORKERS", str(given.workers))
        (root / "recipe.yaml").write_text(text)
        registry = load_plugins()
        recipe = load_recipe(root / "recipe.yaml", registry)
        source = build(Dataset, recipe.dataset, registry).train()
        decode_all(source, range(min(64, len(source))))  # files into the page cache, libraries into memory
        found = list(rounds(recipe, source, given.workers, root, given.rounds))
    for title, column in (("bare decoding", 0), ("latents stage", 1)):
        rates = [pair[column] for pair in found]
        print(f"{title}   {max(rates):8.1f} images/s  (rounds: {', '.join(f'{rate:.1f}' for rate in rates)})")
    shares = [stage / loop for loop, stage in found]
    told = ", ".join(f"{share:.1%}" for share in shares)
    print(f"of bare decoding  {statistics.median(shares):6.1%}  (the median of {told})")


if __name__ == "__main__":
    main()
