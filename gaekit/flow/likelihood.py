"""Log-likelihood of data under the probability flow: the instantaneous change of variables (FFJORD, arXiv 1810.01367;
score SDE, arXiv 2011.13456, eq. 39)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.field import Field
from gaekit.flow.path import Path
from gaekit.values import Draws


@dataclass(frozen=True)
class Solver:
    """How the flow is integrated, by torchdiffeq: dopri5 by its tolerances, rk4 in `steps` equal steps.

    dopri5 chooses its steps for the whole batch, so an image's last digits depend on its neighbours.
    """

    method: Literal["dopri5", "rk4"] = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int = 50

    def facts(self) -> dict[str, Any]:
        """The method and what decides its steps, for a protocol."""
        chosen = ("rtol", "atol") if self.method == "dopri5" else ("steps",)
        return {"method": self.method, **{name: getattr(self, name) for name in chosen}}

    def integrate(self, flow: _Augmented, x: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """(x, its change of log-density) at t = `end`, from x at t = `start`."""
        from torchdiffeq import odeint

        ends = torch.tensor([start, end], dtype=torch.float64, device=x.device)
        if self.method == "dopri5":  # step_t: a step ends where the path does, and does not look beyond
            settings: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol, "options": {"step_t": ends[1:]}}
        else:
            times = torch.linspace(start, end, self.steps + 1, dtype=torch.float64, device=x.device)
            settings = {"options": {"grid_constructor": lambda *_: times}}
        states, changes = odeint(flow, (x, x.new_zeros(len(x))), ends, method=self.method, **settings)
        return states[-1], changes[-1]


def log_likelihood(
    field: Field, data_BDHW: Tensor, *, probes: int | None = 1, draws: Draws | None = None, solver: Solver | None = None
) -> Tensor:
    """log p(data) of each image in nats, (B,) float64, of what the samplers draw: the standard normal at the noise's
    end of the path, carried to the data by the field's unguided flow.

    probes: how many Rademacher vectors, from `draws`, estimate the divergence (Hutchinson), one for the whole path
    each; None sums the D * H * W derivatives, which is exact and as many times dearer. Where the velocity has no value
    at t = 1, the samplers' last Euler step is taken back. Raises GaekitError for a guided field, which follows no
    density, and for DDPM's chain, which has no velocity.
    """
    if field.guidance.scale != 1:
        raise GaekitError(
            f"the likelihood is of the unguided flow, and guidance.scale is {field.guidance.scale}; set 1"
        )
    if not isinstance(field.process, Path):
        raise GaekitError(
            f"process '{field.process.name}' has no velocity; the likelihood goes with linear, gvp and vp"
        )
    x, total = data_BDHW.detach().double(), torch.zeros(len(data_BDHW), dtype=torch.float64, device=data_BDHW.device)
    flow = _Augmented(field, x, probes, draws)
    start, end = field.process.bounds(field.predicts)
    if end < 1:
        slope, divergence = flow(torch.tensor(end), (x, total))
        x, total = x - (1 - end) * slope, total - (1 - end) * divergence
    noise, change = (solver or Solver()).integrate(flow, x, end, start)
    prior = -(noise.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
    return prior + total + change


class _Augmented:
    """(dx / dt, div v): what x moves by, and what -log p(x) grows by on the way, with the same probes throughout."""

    def __init__(self, field: Field, x: Tensor, probes: int | None, draws: Draws | None):
        self.field, self.probes = field, None
        if probes is None:
            return
        if probes < 1 or draws is None:
            raise GaekitError(f"the divergence takes one probe or more and draws for them, or None; given: {probes}")
        self.probes = [torch.where(draws.normal(*x.shape[1:]).to(x) < 0, -1.0, 1.0).to(x) for _ in range(probes)]

    def __call__(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            slope = self.field.velocity(x, float(t)).double()
            divergence = x.new_zeros(len(x))
            for probe in self._probes(x):
                (row,) = torch.autograd.grad(slope, x, probe, retain_graph=True)
                divergence = divergence + (row * probe).flatten(1).sum(1)
        return slope.detach(), divergence / (len(self.probes) if self.probes else 1)

    def _probes(self, x: Tensor) -> Iterator[Tensor]:
        if self.probes is not None:
            yield from self.probes
            return
        for index in range(x[0].numel()):
            basis = torch.zeros_like(x).flatten(1)
            basis[:, index] = 1
            yield basis.view_as(x)
