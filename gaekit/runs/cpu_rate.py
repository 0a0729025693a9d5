"""How fast this CPU multiplies matrices: what a share of its rate is taken of, since no table knows it."""

from __future__ import annotations

import time

import torch

from gaekit.runs.bill import CpuRate
from gaekit.stages.machine import cpu_name

SIZE, SECONDS = 1024, 0.5


def measure_cpu(threads: int, seconds: float = SECONDS) -> CpuRate:
    """The best rate of float32 products of 1024 x 1024 matrices in so many seconds, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, other = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
        best, begun = float("inf"), time.perf_counter()
        while time.perf_counter() - begun < seconds or best == float("inf"):
            start = time.perf_counter()
            torch.mm(one, other)
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return CpuRate(cpu_name(), threads, 2 * SIZE**3 / best / 1e12)
