"""Solvers of the probability flow dx/dt = v(x, t) with fixed steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from gaekit.api import ComponentConfig, Draws, Sampler
from gaekit.api.flow import EDGE, Field
from gaekit_samplers._grid import Shift, Steps, grid

History = list[tuple[float, Tensor]]
"""The past (t, slope) that a multistep method carries from step to step: a fixed few of them."""


def ode_interval(field: Field, release: bool) -> tuple[float, float]:
    """(start, end) of the integration: from where the velocity exists to the data at t = 1.

    `release` is the published transport's: it stops at 1 - 1e-3 for all but the velocity of linear and gvp.
    """
    start, end = field.process.bounds(field.predicts)
    if not release:
        return start, 1.0
    return start, end if field.predicts == "velocity" else 1.0 - EDGE


class FixedStep(Sampler):
    """The loop of solvers with fixed steps; a subclass adds one step of its method."""

    class Config(ComponentConfig):
        """Settings of every solver with fixed steps."""

        steps: Steps = 50
        shift: Shift = 1.0
        compat: Literal["release"] | None = Setting(
            default=None, description="release: stop at t = 0.999 where the published transport does; null goes on to 1"
        )

    @torch.no_grad()
    def sample(
        self, field: Field, noise_BDHW: Tensor, *, draws: Draws, on_step: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Integrate from the noise to t = 1; draws nothing, keeps one state."""
        x = noise_BDHW.float()
        start, end = ode_interval(field, self.config.compat == "release")
        times = grid(self.config.steps + 1, start, end, self.config.shift)
        history: History = []
        for done, (t, t_next) in enumerate(pairwise(times), start=1):
            x = self.step(field, x, t, t_next, history)
            if on_step is not None:
                on_step(done, self.config.steps)
        return x

    @abstractmethod
    def step(self, field: Field, x: Tensor, t: float, t_next: float, history: History) -> Tensor:
        """x at `t_next` from x at `t`."""


class Euler(FixedStep):
    """Euler's method for the ODE: order 1, one evaluation a step.

    `steps: N` are N integration steps, N evaluations. Published settings count grid points: their num_steps N
    is N - 1 here.
    """

    name = "euler"

    def step(self, field: Field, x: Tensor, t: float, t_next: float, history: History) -> Tensor:
        """x + h v(x, t)."""
        return x + (t_next - t) * field.velocity(x, t)


class Heun(FixedStep):
    """Heun's method for the ODE: order 2, two evaluations a step.

    Its last step is Euler's where the velocity has no value at t = 1 (vp, or a prediction of data), as in EDM
    (arXiv 2206.00364).
    """

    name = "heun"

    def step(self, field: Field, x: Tensor, t: float, t_next: float, history: History) -> Tensor:
        """x + h (v(x, t) + v(x + h v, t_next)) / 2."""
        h = t_next - t
        slope = field.velocity(x, t)
        if t_next > field.process.bounds(field.predicts)[1]:
            return x + h * slope
        return x + h / 2 * (slope + field.velocity(x + h * slope, t_next))


class AdamsBashforth2(FixedStep):
    """Two-step Adams-Bashforth for the ODE: order 2 for one evaluation a step; the first step is Euler's."""

    name = "ab2"

    def step(self, field: Field, x: Tensor, t: float, t_next: float, history: History) -> Tensor:
        """x + h (v + h / (2 h_before) (v - v_before)), for steps of unequal size."""
        h, slope = t_next - t, field.velocity(x, t)
        change = torch.zeros_like(slope)
        if history:
            t_before, before = history.pop()
            change = (slope - before) * (h / (2 * (t - t_before)))
        history.append((t, slope))
        return x + h * (slope + change)
