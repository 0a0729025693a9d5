"""Writing down what an attempt at a stage takes, while it lasts (`gaekit.store.attempts`)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from gaekit.errors import GaekitError, Interrupted, Preempted
from gaekit.stages.job import Job
from gaekit.store.attempts import Attempt, Outcome, write_attempts
from gaekit.train.energy import EnergyMeter
from gaekit.train.flops import FlopMeter
from gaekit.train.precision import resolve_precision

BEAT_SECONDS = 15.0
"""Between two writings: so much of an attempt that is killed may be unknown."""
COUNT_SECONDS = 10.0
LONGEST_ERROR = 300


@contextmanager
def recorded(job: Job, length: int | None = None) -> Iterator[None]:
    """Have the work in the block written down as an attempt at the job's stage, whose room this process holds; `length`
    is how many steps it is to have where it can be prolonged. Every rank must call it; the first writes.

    What cannot be written down is told, and no reason for the work to fail.
    """
    record = _Record(job, length)
    with record.watching():
        try:
            yield
        except (Interrupted, Preempted, KeyboardInterrupt):
            record.end("stopped")
            raise
        except BaseException as error:
            record.end("failed", _told(error))
            raise
        record.end("done", everywhere=True)


@dataclass
class _Steps:
    """Those that a training has taken, and when the first began, in seconds of the attempt."""

    first: int
    last: int
    batch: int
    ready: float


@dataclass(frozen=True)
class _Amounts:
    """FLOP by network, joules where a device tells, images."""

    flop: Counter[str]
    joules: float | None
    images: int


class _Record:
    """What is known of an attempt so far. A thread of the first rank writes it; what counts is found by the others."""

    def __init__(self, job: Job, length: int | None):
        self.job, self.length = job, length
        self._began, self._begun = datetime.now(UTC), time.monotonic()
        self._flops = job.machine.flops or FlopMeter()
        self._before = Counter(self._flops.by_network())
        self._energy = EnergyMeter(job.device, first=job.world.local_rank == 0)
        self._flop: Counter[str] = Counter()
        self._images, self._counted, self._ended = 0, 0.0, False
        self._steps: _Steps | None = None
        self._epoch = _images_to_train_on(job)
        self._earlier: list[Attempt] | None = None
        self._writing, self._wake, self._over = threading.Lock(), threading.Event(), threading.Event()
        if job.world.is_rank0:
            self._earlier = self._read()

    def _read(self) -> list[Attempt] | None:
        """The attempts before this one; None where they cannot be read, and then nothing is written."""
        try:
            return self.job.room.ended_attempts()
        except (GaekitError, OSError) as error:
            self._say(error)
            return None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Write now and every few seconds, and heed what bars and trainings tell."""
        reporter, thread = self.job.reporter, threading.Thread(target=self._beat, name="attempt", daemon=True)
        if self.job.world.is_rank0:
            self._write("running", self._as_all())
            thread.start()
        reporter.on_images, self.job.on_step = self._passed, self._stepped
        try:
            yield
        finally:
            reporter.on_images, self.job.on_step = lambda count: None, lambda step, batch: None
            self._over.set()
            self._wake.set()
            if thread.is_alive():
                thread.join()

    def end(self, outcome: Outcome, error: str = "", *, everywhere: bool = False) -> None:
        """Write how it ended; `everywhere`: with what all ranks did, each of which must call it. Otherwise the others
        are taken to have done as much as this one."""
        try:
            self._count()
        except Exception as failure:  # an attempt that has failed may leave anything behind
            self._say(failure)
        self._write(outcome, self._of_all() if everywhere else self._as_all(), error, last=True)

    def _own(self) -> _Amounts:
        return _Amounts(self._flop, self._energy.read(), self._images)

    def _of_all(self) -> _Amounts:
        """What all ranks did. Each must call it."""
        found = self.job.world.all_gather(self._own())
        told = [part.joules for part in found if part.joules is not None]
        flop = sum((part.flop for part in found), Counter[str]())
        return _Amounts(flop, sum(told) if told else None, sum(part.images for part in found))

    def _as_all(self) -> _Amounts:
        """As if every rank had done what this one did; a CPU's energy is that of the machine."""
        own, size = self._own(), self.job.world.size
        cards = size if self.job.device.type == "cuda" else 1
        joules = None if own.joules is None else own.joules * cards
        return _Amounts(Counter({name: n * size for name, n in own.flop.items()}), joules, own.images * size)

    def _beat(self) -> None:
        while not self._over.is_set():
            self._wake.wait(BEAT_SECONDS)
            self._wake.clear()
            self._write("running", self._as_all())

    def _passed(self, images: int) -> None:
        """Called where a bar advances, in the thread that computes: FLOP may be counted there alone."""
        first, self._images = not self._images, self._images + images
        if first or time.monotonic() - self._counted > COUNT_SECONDS:
            self._count()
            self._counted = time.monotonic()
        if first:  # from now on it is known what a step takes, and where it began
            self._wake.set()

    def _stepped(self, step: int, batch: int) -> None:
        if self._steps is None:
            self._steps = _Steps(step - 1, step, batch, time.monotonic() - self._begun)
        self._steps.last = step

    def _count(self) -> None:
        now = self._flops.by_network()
        self._flop = Counter({name: n - self._before[name] for name, n in now.items() if n > self._before[name]})

    def _attempt(self, outcome: Outcome, took: _Amounts, error: str) -> Attempt:
        job, machine = self.job, self.job.machine
        steps, images, stepped = self._steps, took.images, dict[str, Any]()
        if steps is not None:
            images = (steps.last - steps.first) * steps.batch
            stepped = {
                "first_step": steps.first, "last_step": steps.last, "batch": steps.batch, "ready_seconds": steps.ready
            }  # fmt: skip
        flop = dict(took.flop)
        return Attempt(
            started=self._began.isoformat(timespec="seconds"), seconds=time.monotonic() - self._begun,
            outcome=outcome, error=error, device=machine.name, cuda=job.device.type == "cuda",
            processes=job.world.size, threads=torch.get_num_threads(), precision=_precision(job), length=self.length,
            apart=job.room.is_apart, images=images, epoch=self._epoch, flop=sum(flop.values()) if flop else None,
            flop_by_network=flop, uncounted=dict(self._flops.uncounted), joules=took.joules,
            joules_of=self._energy.of if took.joules is not None else "", **stepped,
        )  # fmt: skip

    def _write(self, outcome: Outcome, took: _Amounts, error: str = "", *, last: bool = False) -> None:
        if self._earlier is None:
            return
        with self._writing:
            if not last and self._ended:
                return
            self._ended = last
            try:
                write_attempts(self.job.room.attempts, [*self._earlier, self._attempt(outcome, took, error)])
            except (GaekitError, OSError) as failure:
                self._earlier = None
                self._say(failure)

    def _say(self, error: Exception) -> None:
        self.job.reporter.say(f"  what this takes is not written down, the work goes on: {error}")


def _precision(job: Job) -> str:
    """What most of the stage computes in."""
    section = dict(job.recipe.sections()).get(job.stage)
    train = dict(job.recipe.trainings()).get(job.stage)
    setting = train.precision if train else getattr(section, "precision", "float32")
    return resolve_precision(setting, job.device)


def _images_to_train_on(job: Job) -> int | None:
    if job.stage not in dict(job.recipe.trainings()):
        return None
    try:
        return len(job.data.dataset.train())
    except GaekitError:  # the latents alone are there
        return None


def _told(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0][:LONGEST_ERROR]
    return text if isinstance(error, GaekitError) else f"{type(error).__name__}: {text}"
