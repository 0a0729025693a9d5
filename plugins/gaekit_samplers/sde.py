"""Solvers of dx = (v + w score) dt + sqrt(2 w) dW, which has the path's marginals for any w (SiT, arXiv 2401.08740)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from gaekit.api import ComponentConfig, Draws, GaekitError, Sampler
from gaekit.api.flow import DiffusionForm, Estimate, Field, Path, shift_time
from gaekit_samplers._grid import Shift, grid

RELEASE_EPS = 1e-5
"""Where the SDE of GAE's and LightningDiT's code starts when it can't start at 0, whatever is predicted."""
SIT_EPS = 1e-3
"""SiT's, for all predictions but velocity, for which it is 0."""


class SdeConfig(ComponentConfig):
    """Settings of every SDE solver."""

    steps: int = Setting(default=250, ge=2, description="integration steps in all, the last one too")
    shift: Shift = 1.0
    diffusion: DiffusionForm = Setting(default="sbdm", description="w(t): how much noise is added and taken away again")
    diffusion_norm: float = Setting(default=1.0, gt=0, description="factor of w (inside the square for decreasing)")
    last_step: Literal["none", "mean", "tweedie", "euler"] = Setting(
        default="mean",
        description="the noiseless step to t = 1: by the drift, data or velocity; none: it has noise",
    )
    last_step_size: float | None = Setting(
        default=None, gt=0, lt=1, description="its size before the shift; null is 1 / steps"
    )
    compat: Literal["release", "sit"] | None = Setting(
        default=None,
        description="the published transport's interval and last step: GAE and LightningDiT (release), or SiT",
    )


@dataclass(frozen=True)
class Plan:
    """The times of the noisy steps, then where the last step is taken from and its size (0: there is none)."""

    times: list[float]
    last_from: float
    last_size: float


class SdeSampler(Sampler):
    """The loop of SDE solvers; a subclass adds one noisy step."""

    needs = frozenset({"velocity", "score"})
    Config = SdeConfig

    @torch.no_grad()
    def sample(
        self, field: Field, noise_BDHW: Tensor, *, draws: Draws, on_step: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Integrate from the noise to t = 1: one `draws.normal` of x's shape for each noisy step, in order.

        Raises GaekitError if the field's process has no velocity.
        """
        path, x = _path(field), noise_BDHW.float()
        plan = self.plan(path, field.predicts)
        for done, (t, t_next) in enumerate(pairwise(plan.times), start=1):
            x = self.step(field, path, x, t, t_next, draws.normal(*x.shape[1:]).to(x))
            if on_step is not None:
                on_step(done, self.config.steps)
        if plan.last_size:
            x = self._last(field.evaluate(x, plan.last_from), path, plan)
            if on_step is not None:
                on_step(self.config.steps, self.config.steps)
        return x

    def plan(self, path: Path, predicts: str) -> Plan:
        """Where the steps go: by default to t = 1, the last step being on the shifted grid like the others."""
        c = self.config
        size = 0.0 if c.last_step == "none" else c.last_step_size or 1 / c.steps
        points = c.steps + (c.last_step == "none")
        if c.compat is None:
            start, turn = path.bounds(predicts)[0], 1 - size
            last_from = shift_time(turn, c.shift)
            return Plan(grid(points, start, turn, c.shift), last_from, 1 - last_from)
        start, turn = self._published_interval(path, predicts, size)
        return Plan(grid(points, start, turn, c.shift), turn, size)

    def diffusion(self, path: Path, t: float) -> float:
        """w(t); 0 at the start of a path where the form is infinite: a step without noise keeps the marginals too."""
        if t == 0 and path.starts_empty and self.config.diffusion == "sbdm":
            return 0.0
        time = torch.tensor(t, dtype=torch.float64)
        return float(path.diffusion(time, self.config.diffusion, self.config.diffusion_norm))

    def drift(self, estimate: Estimate, w: float) -> Tensor:
        """v + w * score, from one evaluation."""
        return estimate.velocity + w * estimate.score if w else estimate.velocity

    @abstractmethod
    def step(self, field: Field, path: Path, x: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
        """x at `t_next` from x at `t` and standard normal numbers."""

    def _last(self, estimate: Estimate, path: Path, plan: Plan) -> Tensor:
        match self.config.last_step:
            case "mean":
                w = self.diffusion(path, plan.last_from)
                return estimate.x + plan.last_size * self.drift(estimate, w)
            case "tweedie":
                return estimate.data
        return estimate.x + plan.last_size * estimate.velocity

    def _published_interval(self, path: Path, predicts: str, size: float) -> tuple[float, float]:
        """The transport's (start, end) of the noisy steps, before the shift."""
        sit_eps = 0.0 if predicts == "velocity" else SIT_EPS
        eps = RELEASE_EPS if self.config.compat == "release" else sit_eps
        starts_late = path.starts_empty and (self.config.diffusion == "sbdm" or predicts != "velocity")
        return (eps if starts_late else 0.0), 1 - (size or eps)


class EulerMaruyama(SdeSampler):
    """Euler-Maruyama for the SDE, with the diffusion forms and last steps of SiT: one evaluation a step.

    `steps: N` count the last step, as the published num_steps N does; with `last_step: none` they are N noisy steps,
    which the published transport writes as num_steps N + 1. With a shift the published last step is taken from the
    unshifted 1 - last_step_size, though the grid ends elsewhere: `compat: release` does so too.
    """

    name = "euler_maruyama"

    def step(self, field: Field, path: Path, x: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
        """x + h (v + w score) + sqrt(2 w h) noise."""
        h, w = t_next - t, self.diffusion(path, t)
        return x + h * self.drift(field.evaluate(x, t), w) + math.sqrt(2 * w * h) * noise


class SdeHeun(SdeSampler):
    """Heun's method for the SDE, noise first (SiT's): two evaluations a step; settings as in euler_maruyama.

    A step that ends at t = 1, where the score has no value, is an Euler step.
    """

    name = "sde_heun"

    def step(self, field: Field, path: Path, x: Tensor, t: float, t_next: float, noise: Tensor) -> Tensor:
        """Add the step's noise at t, then take the mean of the drifts at both ends."""
        h, w = t_next - t, self.diffusion(path, t)
        x = x + math.sqrt(2 * w * h) * noise
        slope = self.drift(field.evaluate(x, t), w)
        if t_next == 1:
            return x + h * slope
        ahead = self.drift(field.evaluate(x + h * slope, t_next), self.diffusion(path, t_next))
        return x + h / 2 * (slope + ahead)


def _path(field: Field) -> Path:
    if not isinstance(field.process, Path):
        raise GaekitError(f"process '{field.process.name}' has no velocity; SDE samplers go with linear, gvp and vp")
    return field.process
