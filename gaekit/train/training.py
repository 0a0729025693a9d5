"""The bookkeeping of a training. The loop stays in the stage:

with Training(settings, {"denoiser": denoiser}, host) as training:
    for step, batch in training.steps(stream):
        training.update("denoiser", losses_of(training["denoiser"], batch))
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gaekit.errors import GaekitError, Interrupted, Preempted, ReportedByRank0, RunFailed
from gaekit.recipe.schema import Train
from gaekit.seeds import seed_for
from gaekit.train.checkpoint import Checkpoints
from gaekit.train.curves import CurveWriter
from gaekit.train.ema import EMA
from gaekit.train.guards import Divergence, StepGuard, Terms, mean_of_scalars
from gaekit.train.interval import IntervalTimes, named_peak
from gaekit.train.learner import Learner
from gaekit.train.optim import load_optimizer, make_optimizer, optimizer_tensors
from gaekit.train.precision import autocast, float32_products, resolve_precision
from gaekit.train.probing import Probe, Probes
from gaekit.train.profiling import StepProfile
from gaekit.train.resume import SharedCheckpoint
from gaekit.train.signals import StopRequest, stop_request
from gaekit.train.step import Batch, Host, Step
from gaekit.train.strategy import full_tensors, load_full_state_dict, parallelize
from gaekit.train.track import Meter
from gaekit.train.vote import StopVote
from gaekit.values import Losses

B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class OptimizerOverrides:
    """How one module learns where it differs from the section's `train`: by settings of its own (rate, betas, decay,
    clipping, average), and whether a strategy that shards weights shards its too."""

    settings: Train | None = None
    sharded: bool = True


@dataclass
class Training:
    """Several modules, an optimizer each; saved every `save_every` steps; goes on where the last checkpoint stands."""

    settings: Train
    modules: Mapping[str, nn.Module]
    host: Host
    overrides: Mapping[str, OptimizerOverrides] = field(default_factory=dict)
    probe: Probe | None = None

    def __post_init__(self) -> None:
        self.at = 0
        self.seconds = 0.0
        self.skipped = 0
        self.precision = resolve_precision(self.settings.precision, self.host.device)
        self.learners = {name: self._learner(name, module) for name, module in self.modules.items()}
        say, world = self.host.reporter.say, self.host.world
        self._guards = {name: StepGuard(self.host.stage, name, world, say) for name in self.learners}
        self._terms = {name: Terms() for name in self.learners}
        runtime = self.host.runtime
        self.checkpoints = Checkpoints(
            self.host.room.checkpoints, runtime.keep, runtime.keep_every, say=self.host.reporter.say
        )
        self.meter = Meter()
        self.divergence = Divergence(self.host.runtime.diverging)
        self._images: dict[str, Tensor] = {}
        self._shown: dict[str, float] = {}
        self._vote = StopVote(self.host.world)
        self._step: Step | None = None
        self._curves: CurveWriter | None = None
        self._probes: Probes | None = None
        if self.probe is not None and self.host.times is None:
            self._probes = Probes(self.probe, self.host, self.settings.steps)
        self._loops = ExitStack()
        self._resume()

    def _learner(self, name: str, module: nn.Module) -> Learner:
        own = self.overrides.get(name, OptimizerOverrides())
        net = parallelize(module, self.host.world, self.host.runtime.strategy if own.sharded else "ddp")
        settings, offload = own.settings or self.settings, self.host.runtime.ema_offload
        optimizer = make_optimizer(module, settings, name)
        ema = None if settings.ema is None else EMA(module, settings.ema, warmup=settings.ema_warmup, offload=offload)
        return Learner(name, module, net, optimizer, settings, ema)

    def __getitem__(self, name: str) -> nn.Module:
        """The module as its losses must call it: over several ranks, what averages their gradients."""
        return self.learners[name].net

    def __enter__(self) -> Training:
        self._arithmetic = float32_products(self.precision)  # for backward passes too
        self._arithmetic.__enter__()
        self._trackers = self.host.trackers(self.at + 1 if self.at else 0)  # what is logged after a checkpoint's step
        if self.host.world.is_rank0 and self.host.times is None:
            self._curves = CurveWriter(self.host.room.curves, self.at, self.host.reporter.say)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._loops.close()  # here and now: a traceback would keep streams, and the processes behind them, to the end
        self._arithmetic.__exit__(None, None, None)
        self._trackers.close()
        if self._curves:
            self._curves.close()
        self.checkpoints.close()
        if isinstance(error, RunFailed | Interrupted | Preempted) and not self.host.world.is_rank0:
            raise ReportedByRank0(str(error), error.exit_code) from error  # every rank raises these at the same step

    @property
    def record(self) -> dict[str, Any]:
        """What is worth knowing of the training once it is over."""
        record = {
            "steps": self.at, "seconds": self.seconds, "skipped_steps": self.skipped, "precision": self.precision
        }  # fmt: skip
        return record | ({"probe": self._probes.record} if self._probes else {})

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        return autocast(self.precision, self.host.device)

    def averaged(self, name: str) -> dict[str, Tensor]:
        """The averaged weights of a module; {} where none are kept. Every rank must call it."""
        ema = self.learners[name].ema
        return full_tensors(ema.tensors) if ema else {}

    def weights(self, name: str) -> dict[str, Tensor]:
        """The present weights of a module. Every rank must call it."""
        return full_tensors(self.learners[name].module.state_dict())

    def steps(self, stream: Callable[[int, int, int], Iterable[B]]) -> Iterator[tuple[Step, B]]:
        """Micro-batches with their step, to the last step, or while `host.times` measures; `stream(k, first, last)`
        yields the rows [first, last) of the global batches from step k on.

        Raises Interrupted or Preempted after saving, between two steps; every rank at the same one. GaekitError if the
        batch does not divide.
        """
        return self._loops.enter_context(closing(self._steps(stream)))

    def _steps(self, stream: Callable[[int, int, int], Iterable[B]]) -> Generator[tuple[Step, B], None, None]:
        total, batch = self.settings.steps, self.settings.batch
        self.host.world.on_rank0(lambda: self.host.world.rows(batch))
        begin, end = self.host.world.rows(batch)
        micro = self.host.world.on_rank0(lambda: self._micro_batch(end - begin))
        if self._probes and self._probes.resume(self.at):
            self._look_by_probe(self._probes)
        if self.at >= total:
            return
        peak = named_peak(self.host.device, self.precision, self.host.reporter.say)
        times = IntervalTimes(batch, self.host.device, flops=self.host.flops, peak=peak)
        with (
            closing(self._profile()) as profile,
            closing(_relay(stream(self.at, begin, end))) as batches,
            stop_request(self.host.world.silent_ranks) as stop,
            self.host.reporter.bar(self.host.stage, total, self.at) as bar,
        ):
            while self.at < total:
                start = time.perf_counter()
                profile.begin_step(self.at + 1)
                torch.manual_seed(seed_for(self.host.seed, self.host.stage, self.at, self._network_purpose))
                with times.step():
                    with times.waiting():
                        rows = next(batches)
                    for first in range(begin, end, micro):
                        last = first + micro
                        self._step = Step(self.at, first, last, batch, last == end, self._pictures_due(), self.host)
                        for learner in self.learners.values():
                            learner.average_gradients(self._step.final)
                        yield self._step, rows.part(first - begin, last - begin).to(self.host.device)
                self.seconds += time.perf_counter() - start
                profile.end_step(self.at + 1)
                self._end_step(times)
                if self._probes and self._probes.is_due(self.at):
                    with times.left_out(), bar.left_out("probing"):
                        self._look_by_probe(self._probes)
                bar.advance(per=batch, numbers=self._shown)
                self._leave_if(stop)
                if self.host.times is not None and self.host.times.end_step(self.host.device):
                    break
            self._vote.close()

    def update(self, name: str, losses: Losses) -> None:
        """Backward from the losses into the named module alone; on the step's last micro-batch, step its optimizer.

        A step whose gradient is not finite changes nothing; without clipping, one whose loss is not. That is told, and
        after some in a row raised as RunFailed, naming the term, where the training next looks at its numbers: it logs
        or saves.
        """
        step, learner = self._step, self.learners[name]
        if step is None:
            raise GaekitError("update() belongs inside the loop over steps()")
        names, share = tuple(losses), self.host.world.size * (step.last - step.first) / step.batch
        weighted = torch.stack([loss.weighted.float() for loss in losses.values()])
        learner.backward(weighted.sum() * share)  # gradients are averaged over ranks
        weighted, values = weighted.detach(), torch.stack([loss.value.detach().float() for loss in losses.values()])
        self._terms[name].add(names, weighted)
        self.meter.add_all(tuple(f"loss/{term}" for term in names), values)
        self.meter.add_all(tuple(f"weighted/{term}" for term in names), weighted)
        if step.final:
            measured = step.pictures or self._logs(self.at + 1) or self._saves(self.at + 1)
            outcome = learner.step(self.at, self.host.world, self._terms[name], measured=measured)
            self._guards[name].add(self.at, outcome, self._terms[name])
            self._terms[name] = Terms()
            if outcome.norm is not None:
                self.meter.add(f"train/grad_norm/{name}", outcome.norm)
            self.meter.add(f"train/lr/{name}", learner.rate)

    def note(self, name: str, value: Tensor | float) -> None:
        """Another scalar to show: its mean over the interval."""
        self.meter.add(name, value)

    def pictures(self, images: Mapping[str, Tensor]) -> None:
        """Grids (3, height, width) in [0, 1] to show with this step's numbers; call it where `step.pictures` says
        so."""
        self._images.update(images)

    def save(self, *, required: bool = False) -> None:
        """Have a checkpoint of the present step written; a required one is on disk afterwards. Every rank must call it.
        Raises RunFailed where a step without clipping has left weights that are not finite."""
        self._look()
        self._check_unclipped()
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "ema": {}, "optimizer": {}}
        for name, learner in self.learners.items():
            parts = {
                "weights": learner.module.state_dict(),
                "ema": learner.ema.tensors if learner.ema else {},
                "optimizer": optimizer_tensors(learner.optimizer, learner.module),
            }
            for group, tensors in parts.items():
                own = full_tensors(tensors, keep=self.host.world.is_rank0)
                groups[group].update({f"{name}/{key}": value for key, value in own.items()})
        if self._curves:
            self._curves.sync()
        state = {"precision": self.precision, "seconds": self.seconds, "skipped": self.skipped}
        state |= {"divergence": self.divergence.state}
        # All wait for rank 0 here: at the gradients of the next step their patience with a slow disk would be NCCL's.
        self.host.world.on_rank0(lambda: self.checkpoints.save(self.at, state, groups, required=required))

    def _resume(self) -> None:
        world = self.host.world
        read = self.checkpoints.latest(self.settings.steps) if world.is_rank0 else None
        saved = SharedCheckpoint.of(read, world, self.host.device)
        if saved is None:
            return
        if saved.state["precision"] != self.precision:
            raise GaekitError(
                f"{self.host.room.path}: trained in {saved.state['precision']} so far, would go on in {self.precision} "
                f"on this device ({self.host.device.type}); go on where it was begun, or begin again with "
                f"--fresh {self.host.stage}"
            )
        for name, learner in self.learners.items():
            groups = {group: tensors.under(name) for group, tensors in saved.groups.items()}
            load_full_state_dict(learner.module, groups["weights"])
            load_optimizer(learner.optimizer, learner.module, groups["optimizer"])
            if learner.ema:
                learner.ema.load(groups["ema"])
        self.at, self.seconds, self.skipped = saved.step, saved.state["seconds"], saved.state["skipped"]
        self.divergence.state = saved.state.get("divergence", {})

    def _look(self) -> None:
        """Judge the steps since the last look, of every module. Raises RunFailed."""
        self.skipped += sum(guard.look(self._kept) for guard in self._guards.values())

    def _check_unclipped(self) -> None:
        """Hold what trains without clipping to what the norm of each step's gradients tells of the rest."""
        for name, learner in self.learners.items():
            if learner.settings.clip is None and not learner.is_finite(self.host.world):
                stage = self.host.stage
                raise RunFailed(
                    f"{stage}: step {self.at}: the weights of {name} are not finite: since the last save a gradient "
                    f"was not, though its loss was; {self._kept()}; with {stage}.train.clip such a step is skipped"
                )

    def _kept(self) -> str:
        self.checkpoints.close()
        steps = self.checkpoints.steps()
        return f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no checkpoint yet"

    def _micro_batch(self, rows: int) -> int:
        """Rows a forward pass; says how the batch is made up where there is more than one."""
        micro = min(self.host.runtime.micro_batch or rows, rows)
        if rows % micro:
            raise GaekitError(
                f"runtime.micro_batch: {micro} does not divide the {rows} images of each process "
                f"({self.host.stage}.train.batch = {self.settings.batch} over {self.host.world.size})"
            )
        if rows < self.settings.batch or micro < rows:
            ranks, passes = self.host.world.size, rows // micro
            self.host.reporter.say(
                f"  global batch {self.settings.batch} = {ranks} processes x {passes} passes x {micro} images"
            )
        return micro

    @property
    def _network_purpose(self) -> str:
        rank = self.host.world.rank
        return f"network {rank}" if rank else "network"

    def _pictures_due(self) -> bool:
        every = self.host.runtime.images_every or self.host.runtime.save_every
        return (self.at + 1) % every == 0 or self.at + 1 == self.settings.steps

    def _profile(self) -> StepProfile:
        """What profiles the steps of `runtime.profile`, on rank 0; says where this training takes none of them."""
        steps, room, say = self.host.runtime.profile, self.host.room, self.host.reporter.say
        if not self.host.world.is_rank0 or self.host.times is not None:
            steps = None
        if steps and (steps[0] > self.settings.steps or steps[1] <= self.at):
            say(
                f"  runtime.profile: nothing is profiled: {self.host.stage} takes steps {self.at + 1} to "
                f"{self.settings.steps}, and those wanted are {steps[0]} to {steps[1]}"
            )
        return StepProfile(steps, room.profile, self.host.device, say)

    def _saves(self, step: int) -> bool:
        """Whether the training saves after so many steps."""
        return step % self.host.runtime.save_every == 0 or step == self.settings.steps

    def _logs(self, step: int) -> bool:
        """Whether the training logs after so many steps, pictures or none."""
        return step % self.host.runtime.log_every == 0 or step == self.settings.steps

    def _end_step(self, times: IntervalTimes) -> None:
        self.at += 1
        self.host.on_step(self.at, self.settings.batch)
        last, saving = self.at == self.settings.steps, self._saves(self.at)
        logging = self._logs(self.at) or bool(self._images)
        if logging or saving:
            self._look()
        if logging:
            means = self.meter.take()  # waits for the device: the interval's time is that of its work too
            scalars = mean_of_scalars(means | times.take(self.host.world), self.host.world)
            self.divergence.look(scalars, f"{self.host.stage}: step {self.at}", self._kept)
            self._shown = {"loss": sum(v for k, v in scalars.items() if k.startswith("weighted/"))}
            self._show(scalars)
        streak = any(guard.bad for guard in self._guards.values())
        if saving and (last or not streak):
            self.save(required=last)

    def _look_by_probe(self, probes: Probes) -> None:
        """Make the probe of the present step. What is saved before it goes on from here if the process is killed."""
        self._show(probes.look(self.at, self))

    def _show(self, scalars: dict[str, float]) -> None:
        """Hand the numbers of the present step, and what pictures there are, to the curves and the trackers."""
        if self._curves:
            self._curves.log(self.at, self.seconds, scalars)
        self._trackers.log(self.at, scalars, self._images)
        self._images = {}

    def _leave_if(self, stop: StopRequest) -> None:
        """End every rank where one has been asked to stop; after the last step, which is saved, too: its probe may
        have taken long."""
        asked, last = int(stop.signal or 0), self.at >= self.settings.steps
        number = max(self._vote.close(), self.host.world.all_reduce_max(asked)) if last else self._vote.cast(asked)
        if not number:
            return
        if not last:
            self.save(required=True)
        error = Interrupted if number == signal.SIGINT else Preempted
        message = (
            f"{self.host.stage}: stopped and saved at step {self.at} of {self.settings.steps}; "
            "the same command goes on from there"
        )
        raise error(message)


def _relay(items: Iterable[B]) -> Generator[B, None, None]:
    yield from items  # which closes what they come from when this is closed
