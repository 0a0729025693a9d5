"""Samplers: solvers of the probability flow, of the SDE with its marginals, and of DDPM's chain."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_samplers.adaptive import Dopri5, TorchDiffEq
from gaekit_samplers.ddpm import Ddim, DdpmSampler
from gaekit_samplers.ode import AdamsBashforth2, Euler, Heun
from gaekit_samplers.sde import EulerMaruyama, SdeHeun


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The samplers."""
    return [Euler, Heun, AdamsBashforth2, EulerMaruyama, SdeHeun, TorchDiffEq, Dopri5, DdpmSampler, Ddim]
