"""The bookkeeping of a training. The loop stays in the stage:

with Training(settings, {"denoiser": denoiser}, host) as training:
    for step, batch in training.steps(stream):
        training.update("denoiser", losses)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from gaekit.errors import GaekitError, Interrupted, Preempted, RunFailed
from gaekit.recipe.schema import Runtime, Train
from gaekit.seeds import generator_for, seed_for
from gaekit.store.room import Room
from gaekit.train.checkpoint import Checkpoints
from gaekit.train.draws import BatchDraws
from gaekit.train.ema import EMA
from gaekit.train.optim import learning_rate, load_optimizer, make_optimizer, optimizer_tensors
from gaekit.train.progress import Reporter
from gaekit.train.signals import StopRequest, stop_request
from gaekit.train.track import Meter, Trackers
from gaekit.values import Draws, Losses

BAD_STEPS_ALLOWED = 3
DEAD_STEPS_ALLOWED = 100


class Batch(Protocol):
    """What a stream yields: a batch that can be cut into micro-batches and moved to a device."""

    def part(self, first: int, last: int) -> Self:
        """Rows first to last."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        ...

    def __len__(self) -> int: ...


B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class Host:
    """Where a training lives: the room, the machine's settings, and where it reports."""

    stage: str
    seed: int
    room: Room
    runtime: Runtime
    device: torch.device
    reporter: Reporter
    trackers: Callable[[int], Trackers]


@dataclass(frozen=True)
class Step:
    """One micro-batch of step `index` (from 0): rows `first` to `last` of the global batch."""

    index: int
    first: int
    last: int
    batch: int
    pictures: bool
    host: Host

    @property
    def final(self) -> bool:
        """Whether this is the step's last micro-batch, at which optimizers step."""
        return self.last == self.batch

    def draws(self, name: str) -> Draws:
        """Randomness for this step under a name: f(seed, stage, step, name), rows as given."""
        generator = generator_for(self.host.seed, self.host.stage, self.index, name)
        return BatchDraws(generator, self.batch, self.first, self.last, self.host.device)


@dataclass
class Learner:
    """A module with its optimizer, its average, and how its last steps went."""

    module: nn.Module
    optimizer: torch.optim.AdamW
    peak: float
    ema: EMA | None = None
    bad: int = 0
    dead: int = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


@dataclass(frozen=True)
class Pace:
    """How one module learns where it differs from the section's `train`: its own rate, betas, whether it is
    averaged."""

    lr: float | None = None
    betas: tuple[float, float] | None = None
    averaged: bool = True


@dataclass
class Training:
    """Several modules, an optimizer each; saved every `save_every` steps; goes on where the last checkpoint stands."""

    settings: Train
    modules: Mapping[str, nn.Module]
    host: Host
    paces: Mapping[str, Pace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.at = 0
        self.seconds = 0.0
        self.skipped = 0
        self.precision = resolve_precision(self.settings.precision, self.host.device)
        self.learners = {name: self._learner(name, module) for name, module in self.modules.items()}
        self.checkpoints = Checkpoints(self.host.room.checkpoints, self.host.runtime.keep)
        self.meter = Meter()
        self._images: dict[str, Tensor] = {}
        self._shown: dict[str, float] = {}
        self._step: Step | None = None
        self._resume()

    def _learner(self, name: str, module: nn.Module) -> Learner:
        pace = self.paces.get(name, Pace())
        peak = pace.lr or self.settings.lr
        optimizer = make_optimizer(module, self.settings, peak, pace.betas or self.settings.betas, name)
        averaged = self.settings.ema is not None and pace.averaged
        return Learner(module, optimizer, peak, EMA(module, self.settings.ema or 0.0) if averaged else None)

    def __enter__(self) -> Training:
        self._trackers = self.host.trackers(self.at)
        return self

    def __exit__(self, *_: object) -> None:
        self._trackers.close()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        return autocast(self.precision, self.host.device)

    def averaged(self, name: str) -> dict[str, Tensor]:
        """The averaged weights of a module; {} where none are kept."""
        ema = self.learners[name].ema
        return ema.tensors if ema else {}

    def steps(self, stream: Callable[[int], Iterable[B]]) -> Iterator[tuple[Step, B]]:
        """Micro-batches with their step, to the last step; `stream(k)` yields global batches from step k on.

        Raises Interrupted or Preempted after saving, between two steps.
        """
        total, batch = self.settings.steps, self.settings.batch
        micro = min(self.host.runtime.micro_batch or batch, batch)
        if self.at >= total:
            return
        batches = iter(stream(self.at))
        with stop_request() as stop, self.host.reporter.bar(self.host.stage, total, self.at) as bar:
            while self.at < total:
                start = time.perf_counter()
                torch.manual_seed(seed_for(self.host.seed, self.host.stage, self.at, "network"))
                whole = next(batches)
                for first in range(0, batch, micro):
                    last = min(first + micro, batch)
                    self._step = Step(self.at, first, last, batch, self._pictures_due(), self.host)
                    yield self._step, whole.part(first, last).to(self.host.device)
                self.seconds += time.perf_counter() - start
                self._end_step(time.perf_counter() - start)
                bar.advance(per=batch, numbers=self._shown)
                self._leave_if(stop)

    def update(self, name: str, losses: Losses) -> None:
        """Backward from the losses into the named module alone; on the step's last micro-batch, step its optimizer.

        Raises RunFailed, naming the term, after some non-finite steps in a row; a single one is skipped and counted.
        """
        step, learner = self._step, self.learners[name]
        if step is None:
            raise GaekitError("update() belongs inside the loop over steps()")
        share = (step.last - step.first) / step.batch
        total = torch.stack([loss.weighted.float() for loss in losses.values()]).sum()
        torch.autograd.backward(total * share, inputs=learner.parameters)
        for term, loss in losses.items():
            self.meter.add(f"loss/{term}", loss.value)
            self.meter.add(f"weighted/{term}", loss.weighted)
        if step.final:
            self._apply(name, learner, losses)

    def note(self, name: str, value: Tensor | float) -> None:
        """Another scalar to show: its mean over the interval."""
        self.meter.add(name, value)

    def pictures(self, images: Mapping[str, Tensor]) -> None:
        """Grids (3, height, width) in [0, 1] to show with this step's numbers; call it where `step.pictures` says
        so."""
        self._images.update(images)

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "ema": {}, "optimizer": {}}
        for name, learner in self.learners.items():
            parts = {
                "weights": learner.module.state_dict(),
                "ema": learner.ema.tensors if learner.ema else {},
                "optimizer": optimizer_tensors(learner.optimizer, learner.module),
            }
            for group, tensors in parts.items():
                groups[group].update({f"{name}/{key}": value for key, value in tensors.items()})
        state = {"precision": self.precision, "seconds": self.seconds, "skipped": self.skipped}
        self.checkpoints.save(self.at, state, groups)

    def _resume(self) -> None:
        saved = self.checkpoints.latest(self.settings.steps)
        if saved is None:
            return
        if saved.state["precision"] != self.precision:
            raise GaekitError(
                f"{self.host.room.path}: trained in {saved.state['precision']} so far, "
                f"would go on in {self.precision}; "
                f"set {self.host.stage}.train.precision to {saved.state['precision']}"
            )
        for name, learner in self.learners.items():
            groups = {group: _under(name, tensors) for group, tensors in saved.groups.items()}
            learner.module.load_state_dict(groups["weights"])
            load_optimizer(learner.optimizer, learner.module, groups["optimizer"])
            if learner.ema:
                learner.ema.load(groups["ema"])
        self.at, self.seconds, self.skipped = saved.step, saved.state["seconds"], saved.state["skipped"]

    def _apply(self, name: str, learner: Learner, losses: Losses) -> None:
        for group in learner.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, learner.peak, self.at)
        norm = float(nn.utils.clip_grad_norm_(learner.parameters, self.settings.clip or math.inf))
        if math.isfinite(norm):
            learner.optimizer.step()
            if learner.ema:
                learner.ema.update(learner.module)
        learner.optimizer.zero_grad(set_to_none=True)
        self._guard(name, learner, norm, losses)
        self.meter.add(f"train/grad_norm/{name}", norm)
        self.meter.add(f"train/lr/{name}", learner.optimizer.param_groups[0]["lr"])

    def _guard(self, name: str, learner: Learner, norm: float, losses: Losses) -> None:
        learner.bad = 0 if math.isfinite(norm) else learner.bad + 1
        learner.dead = learner.dead + 1 if norm == 0 else 0
        where = f"{self.host.stage}: step {self.at + 1}"
        if learner.bad:
            self.skipped += 1
            terms = [term for term, loss in losses.items() if not bool(torch.isfinite(loss.weighted))]
            what = f"loss term {', '.join(terms)} is" if terms else "every loss term is finite, the gradient is"
            self.host.reporter.say(f"{where}: {what} not finite for {name}; the step is skipped")
            if learner.bad >= BAD_STEPS_ALLOWED:
                raise RunFailed(
                    f"{where}: {what} not finite for {name}, {learner.bad} steps in a row; "
                    f"the last checkpoint is intact ({self.host.room.checkpoints}); "
                    f"lower {self.host.stage}.train.lr or its clip"
                )
        if learner.dead >= DEAD_STEPS_ALLOWED:
            raise RunFailed(
                f"{where}: the gradient of {name} has been exactly zero for {learner.dead} steps; "
                "nothing is learnt any more"
            )

    def _pictures_due(self) -> bool:
        every = self.host.runtime.images_every or self.host.runtime.save_every
        return (self.at + 1) % every == 0 or self.at + 1 == self.settings.steps

    def _end_step(self, seconds: float) -> None:
        self.at += 1
        runtime, last = self.host.runtime, self.at == self.settings.steps
        self.meter.add("train/images_per_second", self.settings.batch / seconds)
        if self.at % runtime.log_every == 0 or last or self._images:
            scalars = self.meter.take()
            self._shown = {"loss": sum(v for k, v in scalars.items() if k.startswith("weighted/"))}
            self._trackers.log(self.at, scalars, self._images)
            self._images = {}
        if self.at % runtime.save_every == 0 or last:
            self.save()

    def _leave_if(self, stop: StopRequest) -> None:
        if not stop or self.at >= self.settings.steps:
            return
        self.save()
        error = Interrupted if stop.signal and stop.signal.name == "SIGINT" else Preempted
        raise error(
            f"{self.host.stage}: stopped and saved at step {self.at} of {self.settings.steps}; "
            "the same command goes on from there"
        )


def resolve_precision(precision: str, device: torch.device) -> str:
    """What `auto` means on this device: bf16 on CUDA, float32 elsewhere."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """torch's autocast for a resolved precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{name}/"
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
