"""Looking at a training while it runs: when, what is told of it, and which look was the best. It changes no bit of the
training: what measures is given copies of the weights, and what is global to the process is put back."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gaekit.store.curves import read_curves
from gaekit.train.step import Host

PREFIX, SECONDS = "probe/", "seconds"
"""How the scalars of probes begin, and the one that every probe has: how long it took."""


class Probed(Protocol):
    """What a probe sees of a training. Every rank must ask."""

    def weights(self, name: str) -> dict[str, Tensor]:
        """The present weights of a module."""
        ...

    def averaged(self, name: str) -> dict[str, Tensor]:
        """The averaged weights of a module; {} where none are kept."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        ...


@dataclass(frozen=True)
class Probe:
    """A look at a training every so many steps, and at its last.

    measure: numbers by name, the same on every rank; each calls it. It trains nothing and leaves the training's modules
    alone. decides: how the name of the number begins by which probes are compared, the first that does; `higher`:
    whether more of the number of that name is better. shown: which others are told a person. doubt: what is wrong with
    a training of such numbers, as a sentence.
    """

    every: int
    measure: Callable[[Probed], Mapping[str, float]]
    decides: str
    higher: Callable[[str], bool] = lambda name: False
    shown: Callable[[str], bool] = lambda name: False
    doubt: Callable[[Mapping[str, float]], str | None] = lambda numbers: None

    def decisive(self, names: Iterable[str]) -> str:
        """The name of the number by which probes are compared; "" where there is none."""
        return next((name for name in names if name.startswith(self.decides)), "")


@dataclass
class Probes:
    """The probes of one training of `steps` steps."""

    probe: Probe
    host: Host
    steps: int
    _decisive: str = ""
    _values: dict[int, float] = field(default_factory=dict)
    _seconds: float = 0.0

    def resume(self, step: int) -> bool:
        """Take over what was found up to `step`; -> whether a probe is due there that was not made, because the process
        was killed in it. Every rank must call it."""

        def look() -> bool:
            found = read_curves(self.host.room.curves, last=step).under(PREFIX)
            self._decisive = self.probe.decisive(name.removeprefix(PREFIX) for name in found)
            self._values = dict(found.get(PREFIX + self._decisive, ()))
            made = dict(found.get(PREFIX + SECONDS, ()))
            self._seconds = math.fsum(made.values())
            return self.is_due(step) and step not in made

        return self.host.world.on_rank0(look)

    def is_due(self, step: int) -> bool:
        """Whether there is a probe after so many steps."""
        return step > 0 and (step % self.probe.every == 0 or step == self.steps)

    def look(self, step: int, training: Probed) -> dict[str, float]:
        """Make the probe of a step, and tell of it; -> its scalars, with their prefix. Every rank must call it."""
        start = time.perf_counter()
        with untouched(self.host.device):
            numbers = dict(self.probe.measure(training))
        self._decisive = self.probe.decisive(numbers)
        self._values[step] = numbers.get(self._decisive, math.nan)
        numbers[SECONDS] = time.perf_counter() - start
        self._seconds += numbers[SECONDS]
        self._tell(step, numbers)
        return {PREFIX + name: value for name, value in numbers.items()}

    @property
    def record(self) -> dict[str, Any]:
        """What is kept of the probes once the training is over: how many, the best by which number, and their time."""
        step = self._best()
        best = None if step is None else {"step": step, "value": self._values[step]}
        which = "highest" if self.probe.higher(self._decisive) else "lowest"
        by = f"{which} {PREFIX}{self._decisive}" if self._decisive else None
        return {"count": len(self._values), "by": by, "best": best, "seconds": self._seconds}

    def _best(self) -> int | None:
        """The step of the best probe, the first of equal ones; None where no number is finite."""
        finite = [step for step, value in sorted(self._values.items()) if math.isfinite(value)]
        sign = -1 if self.probe.higher(self._decisive) else 1
        return min(finite, key=lambda step: sign * self._values[step], default=None)

    def _tell(self, step: int, numbers: Mapping[str, float]) -> None:
        own, best, stage, say = self._decisive, self._best(), self.host.stage, self.host.reporter.say
        told = [*([own] if own else []), *(name for name in numbers if self.probe.shown(name) and name != own)]
        text = ", ".join(f"{name} {numbers[name]:.4g}" for name in told)
        so_far = "; the best so far" if best == step and len(self._values) > 1 else ""
        say(f"  {stage}: probe at step {step}: {text}{so_far} ({numbers[SECONDS]:.1f} s)")
        if doubt := self.probe.doubt(numbers):
            say(f"  {stage}: {doubt}")
        if step == self.steps and best is not None and best != step:
            say(
                f"  {stage}: the best probe was that of step {best}, by {own} {self._values[best]:.4g}; the result is "
                "that of the last step all the same"
            )


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Put back after the block what is global to the process and could reach a training: the states of torch's,
    numpy's and Python's random numbers, and the backends' flags."""
    backends = (torch.backends.cudnn, ("benchmark", "deterministic", "allow_tf32")), (
        torch.backends.cuda.matmul, ("allow_tf32",)
    )  # fmt: skip
    flags = [(backend, name, getattr(backend, name)) for backend, names in backends for name in names]
    generators = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        for backend, name, value in flags:
            setattr(backend, name, value)
