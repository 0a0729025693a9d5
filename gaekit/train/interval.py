"""Where the time of a training goes, an interval of steps at a time, by the host's clock: nothing here waits for the
device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gaekit.parallel import World
from gaekit.rates import Peak, peak_of
from gaekit.train.flops import FlopMeter


@dataclass
class IntervalTimes:
    """Times of the steps since the last `take`, and on CUDA the most memory that tensors took at once since then.

    `batch`: images a step of all ranks. `clock` tells seconds. `flops` counts what networks do, `peak` is the device's
    rate, where it is known.
    """

    batch: int
    device: torch.device
    clock: Callable[[], float] = time.perf_counter
    flops: FlopMeter | None = None
    peak: Peak | None = None

    def __post_init__(self) -> None:
        self._flop = self.flops.flop() if self.flops else 0
        self._begin_interval()

    def _begin_interval(self) -> None:
        self._begun, self._steps, self._waited, self._host = self.clock(), 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For the time in which the next batch is waited for."""
        start = self.clock()
        yield
        self._waited += self.clock() - start

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """For what counts in none of the scalars but memory's."""
        start, flop = self.clock(), self.flops.flop() if self.flops else 0
        yield
        self._flop += (self.flops.flop() if self.flops else 0) - flop
        self._begun += self.clock() - start

    @contextmanager
    def step(self) -> Iterator[None]:
        """For the time that a step, its `waiting` included, keeps the host."""
        start, waited = self.clock(), self._waited
        yield
        self._host += self.clock() - start - (self._waited - waited)
        self._steps += 1

    def take(self, world: World) -> dict[str, float]:
        """The scalars of the interval's steps, and begin the next. Every rank must call it, at least a step after the
        last time, and where the device has done the steps: what it has yet to do would count for the next interval.

        `images_per_second`: of all ranks, by the time since the last `take`, whatever was done in it (saving too).
        `data_wait`: the share of that time spent waiting for batches. `host_seconds`: of a step without that wait;
        on CUDA, near the time of a step, it tells that the host holds up the device, or has its queue full.
        `tflops`: TFLOP of all networks that ran, those that do not train too, a second and a device (`FlopMeter` says
        what counts; nothing is counted twice for being computed twice). `mfu`: that by `peak`, where it is known.
        `peak_memory_gib`: of tensors on the CUDA device, the largest over ranks.
        """
        seconds = max(self.clock() - self._begun, 1e-9)
        scalars = {
            "train/images_per_second": self.batch * self._steps / seconds,
            "train/data_wait": self._waited / seconds,
            "train/host_seconds": self._host / self._steps,
            **self._rates(seconds),
        }
        if self.device.type == "cuda":
            peak = world.all_reduce_max(torch.cuda.max_memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
            scalars["train/peak_memory_gib"] = peak / 2**30
        self._begin_interval()
        return scalars

    def _rates(self, seconds: float) -> dict[str, float]:
        if self.flops is None:
            return {}
        before, self._flop = self._flop, self.flops.flop()
        tflops = (self._flop - before) / seconds / 1e12
        return {"train/tflops": tflops} | ({"train/mfu": tflops / self.peak.tflops} if self.peak else {})


def named_peak(device: torch.device, precision: str, say: Callable[[str], None]) -> Peak | None:
    """The rate of a CUDA card that `train/mfu` is a share of, which is said; None where it is not known."""
    if device.type != "cuda":
        return None
    peak = peak_of(torch.cuda.get_device_name(device), precision)
    if peak:
        say(f"  train/mfu is of {peak.of}")
    return peak
