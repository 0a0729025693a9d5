"""How fast a denoiser's batches come from the latent cache, beside one file opened an item, and in how much memory.

    python benchmarks/latent_cache.py

Shuffled, mirrored, standardised batches of 256 latents (32, 16, 16) in float32, out of 8,000 with their mirrors
(524 MB, written to a temporary folder): from `LatentCache`, and as the published code reads them, by a torch
DataLoader with two workers that opens the item's safetensors file and slices its row. Then the largest resident memory
of a process that visits every latent of such a cache, and of one of twice its size.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gaekit.data.latents import INDEX, LABEL, LATENT, MIRROR, LatentCache
from gaekit.store.shards import ShardWriter

SHAPE, BATCH, ROWS = (32, 16, 16), 256, 1024
MEAN, STD = 0.5, 2.0


def write_cache(folder: Path, count: int) -> None:
    """A cache of `count` random latents and their mirrors."""
    generator = torch.Generator().manual_seed(0)
    with ShardWriter(folder, ROWS, count) as writer:
        for span in writer.missing:
            index = torch.arange(span.start, span.stop)
            latent = {name: torch.randn(len(index), *SHAPE, generator=generator) for name in (LATENT, MIRROR)}
            writer.add({**latent, LABEL: index % 1000, INDEX: index})
    channels = SHAPE[0]
    writer.finish({
        "latent_dim": channels, "grid": SHAPE[1], "store": "mean", "flip": True, "dtype": "float32",
        "classes": [str(index) for index in range(1000)],
        "statistics": {"mean": [MEAN] * channels, "std": [STD] * channels},
    })  # fmt: skip


class OneFileAnItem(Dataset[tuple[Tensor, int]]):
    """The published way: an item opens its file, slices its row, mirrored or not by a coin, and standardises it."""

    def __init__(self, folder: Path, count: int):
        self.files, self.count = sorted(folder.glob("*.safetensors")), count
        self.mean, self.std = (torch.full((SHAPE[0], 1, 1), value) for value in (MEAN, STD))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        file, row = divmod(item, ROWS)
        with safe_open(self.files[file], framework="pt") as opened:
            latent = opened.get_slice(LATENT if random.random() < 0.5 else MIRROR)[row : row + 1]
            label = opened.get_slice(LABEL)[row : row + 1]
        return (latent[0] - self.mean) / self.std, int(label)


def rate(batches: Iterable[object], count: int, warm_up: int = 4) -> float:
    """Latents a second over `count` batches, after those that start workers and fill caches."""
    stream = iter(batches)
    for _ in range(warm_up):
        next(stream)
    start = time.perf_counter()
    for _ in itertools.islice(stream, count):
        pass
    return count * BATCH / (time.perf_counter() - start)


def peak(folder: Path, count: int) -> float:
    """MiB resident at most in a process that visits every latent of a cache once, in batches."""
    command = [sys.executable, __file__, "--visit", str(folder), "--count", str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def visit(folder: Path, count: int) -> None:
    """What `peak` starts."""
    for _ in itertools.islice(LatentCache(folder).training(0, BATCH, 0), -(-count // BATCH)):
        pass
    # Not getrusage: its peak is also that of the process that started this one.
    (peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    print(int(peak) / 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8000, help="latents in the cache")
    parser.add_argument("--batches", type=int, default=60, help="batches measured, of each of three rounds")
    parser.add_argument("--visit", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.visit:
        visit(given.visit, given.count)
        return
    with tempfile.TemporaryDirectory() as root:
        once, twice = Path(root, "once"), Path(root, "twice")
        write_cache(once, given.count)
        published = DataLoader(OneFileAnItem(once, given.count), BATCH, shuffle=True, num_workers=2, drop_last=True)
        ours, theirs = [], []
        for _ in range(3):  # by turns, so that what else the machine does weighs on both
            ours.append(rate(LatentCache(once).training(0, BATCH, 0), given.batches))
            theirs.append(rate(published, min(given.batches, given.count // BATCH - 4)))
        print(f"latent cache          {max(ours):10,.0f} latents/s  (rounds: {', '.join(f'{r:,.0f}' for r in ours)})")
        print(
            f"one file an item, x2  {max(theirs):10,.0f} latents/s  (rounds: {', '.join(f'{r:,.0f}' for r in theirs)})"
        )
        print(f"ratio                 {max(ours) / max(theirs):10.1f}")
        write_cache(twice, 2 * given.count)
        small, large = peak(once, given.count), peak(twice, 2 * given.count)
        print(
            f"peak memory           {small:10.0f} MiB; with twice the cache {large:.0f} MiB: {large - small:+.0f} MiB"
        )


if __name__ == "__main__":
    main()
