"""The solvers of torchdiffeq, for the probability flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from gaekit.api import ComponentConfig, Draws, Sampler
from gaekit.api.flow import Field
from gaekit_samplers._grid import Shift, Steps, grid
from gaekit_samplers.ode import ode_interval

FIXED = frozenset({"euler", "midpoint", "heun3", "rk4"})
"""torchdiffeq's methods that go by our grid; the others choose their steps by the tolerances."""


class TorchDiffEq(Sampler):
    """Any explicit method of torchdiffeq: adaptive ones by tolerance, fixed ones by steps and shift.

    An adaptive method chooses its steps for the whole batch, so an image's last digits depend on its neighbours.
    """

    name = "torchdiffeq"

    class Config(ComponentConfig):
        """The method, and what decides its steps."""

        method: Literal[
            "dopri5",
            "dopri8",
            "bosh3",
            "fehlberg2",
            "adaptive_heun",
            "euler",
            "midpoint",
            "heun3",
            "rk4",
        ] = Setting(default="dopri5", description="torchdiffeq's name of the method")
        atol: float = Setting(default=1e-6, gt=0, description="absolute tolerance of adaptive methods")
        rtol: float = Setting(default=1e-3, gt=0, description="relative tolerance of adaptive methods")
        steps: Steps = 50
        shift: Shift = 1.0
        compat: Literal["release"] | None = Setting(
            default=None, description="release: as published, an adaptive step may look beyond t = 1; null ends there"
        )

    @property
    def method(self) -> str:
        """torchdiffeq's name of the method."""
        return str(self.config.method)

    @torch.no_grad()
    def sample(
        self, field: Field, noise_BDHW: Tensor, *, draws: Draws, on_step: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Integrate from the noise to t = 1; `on_step` counts hundredths of the path for an adaptive method."""
        from torchdiffeq import odeint

        times = self._times(field)
        flow = _Flow(field, times, self.method in FIXED, on_step)
        settings: dict[str, Any] = {"method": self.method, "options": self._options(times, noise_BDHW.device)}
        if self.method not in FIXED:
            settings |= {"atol": self.config.atol, "rtol": self.config.rtol}
        ends = torch.tensor([times[0], times[-1]], dtype=torch.float64, device=noise_BDHW.device)
        x: Tensor = odeint(flow, noise_BDHW.float(), ends, **settings)[-1]
        if self.config.compat is None and times[-1] < 1:  # the velocity has no value at the end: Euler's step across
            x = x + (1 - times[-1]) * field.velocity(x, times[-1])
        return x

    def _times(self, field: Field) -> list[float]:
        """The grid of a fixed method, the two ends for an adaptive one: where the velocity has a value."""
        start, end = field.process.bounds(field.predicts)
        if self.config.compat == "release":
            start, end = ode_interval(field, release=True)
        return grid(self.config.steps + 1, start, end, self.config.shift) if self.method in FIXED else [start, end]

    def _options(self, times: list[float], device: torch.device) -> dict[str, Any]:
        """How torchdiffeq is kept to our grid, without keeping each state, and from looking beyond the end."""
        points = torch.tensor(times, dtype=torch.float64, device=device)
        if self.method in FIXED:
            return {"grid_constructor": lambda flow, x, ends: points}
        return {} if self.config.compat == "release" else {"step_t": points[1:]}


class _Flow:
    """dx/dt as torchdiffeq calls it, with the callback by which it reports a step."""

    def __init__(
        self, field: Field, times: list[float], fixed: bool, on_step: Callable[[int, int], None] | None
    ) -> None:
        self.field, self.times, self.on_step, self.done = field, times, on_step, 0
        if on_step is not None:
            setattr(self, "callback_step" if fixed else "callback_accept_step", self._count if fixed else self._measure)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field.velocity(x, t)

    def _count(self, t: Tensor, x: Tensor, h: Tensor) -> None:
        self.done += 1
        self._report(self.done, len(self.times) - 1)

    def _measure(self, t: Tensor, x: Tensor, h: Tensor) -> None:
        share = (float(t + h) - self.times[0]) / (self.times[-1] - self.times[0])
        self._report(min(100, round(100 * share)), 100)

    def _report(self, done: int, total: int) -> None:
        if self.on_step is not None:
            self.on_step(done, total)


class Dopri5(TorchDiffEq):
    """Dormand-Prince of order 5 with adaptive steps, chosen for the whole batch (torchdiffeq)."""

    name = "dopri5"

    class Config(ComponentConfig):
        """Tolerances."""

        atol: float = Setting(default=1e-6, gt=0, description="absolute tolerance")
        rtol: float = Setting(default=1e-3, gt=0, description="relative tolerance")
        compat: Literal["release"] | None = Setting(
            default=None, description="release: as published, a step may look beyond t = 1; null ends there"
        )

    @property
    def method(self) -> str:
        """dopri5."""
        return "dopri5"
