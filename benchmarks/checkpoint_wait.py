"""How long a training waits for a checkpoint, beside how long it takes to write one.

    python benchmarks/checkpoint_wait.py [--gigabytes 1] [--saves 4] [--device cpu] [--folder DIR]

Saves float32 tensors of a given size again and again, and prints for each the
seconds that `save` kept the training waiting, those until the checkpoint stood on disk, and the ratio. The first save
has to allocate the memory of the copy; those after it reuse it. Exit 1 if these waited for 10 % or more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from gaekit.train.checkpoint import Checkpoints

LIMIT = 0.1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; the current one by default")
    options = parser.parse_args()
    size = round(options.gigabytes * 1e9 / 4 / 64)
    tensors = {f"layer{i}": torch.randn(size, device=options.device) for i in range(64)}
    print(f"{options.gigabytes:g} GB of float32 on {options.device}, torch {torch.__version__}")
    ratios = []
    with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as folder, Checkpoints(Path(folder)) as saved:
        for step in range(1, options.saves + 1):
            wait, write = measure(saved, step, tensors)
            print(f"save {step}: wait {wait:.3f} s, write {write:.3f} s, ratio {wait / write:.1%}")
            ratios.append(wait / write)
    ratio = statistics.median(ratios[1:] or ratios)
    print(f"median of the later saves: {ratio:.1%} (limit {LIMIT:.0%})")
    return int(ratio >= LIMIT)


def measure(saved: Checkpoints, step: int, tensors: dict[str, torch.Tensor]) -> tuple[float, float]:
    """(seconds that the caller waited, seconds until the checkpoint was complete)."""
    start = time.perf_counter()
    saved.save(step, {}, {"weights": tensors})
    wait = time.perf_counter() - start
    saved.wait()
    return wait, time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
