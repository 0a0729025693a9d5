"""What LightningDiT and SiT share: losses at known times and noise, ODE and SDE samples, guidance."""

from __future__ import annotations

from typing import Any

import torch
from parity.cases import Case, ode_sampler, sde_sampler
from parity.fixture import Fixture, UnknownOutput
from torch import Tensor

from gaekit.api import Denoiser
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.objective import flow_matching_terms
from gaekit.flow.path import get_path
from gaekit.values import GeneratorDraws


def terms(
    fixture: Fixture, network: Denoiser, *, path: str, predicts: str, weighting: Any = "none"
) -> dict[str, Tensor]:
    """The terms of each image at in.loss_t, with the cosine's."""
    arguments = fixture.given("loss_t", "loss_x1", "loss_y", "loss_noise")
    with torch.no_grad():
        return flow_matching_terms(
            network, get_path(path), *arguments, predicts=predicts, weighting=weighting, cosine=True
        )


def sample(fixture: Fixture, network: Denoiser, name: str, case: Case, compat: str) -> Tensor:
    """The end of a published sampling from in.init."""
    init, label = fixture.given("init", "sample_y")
    path, predicts = get_path(case.path or "linear"), case.predicts or "velocity"
    field = Field(network, path, case.guidance, label, fixture.config["num_classes"], predicts)
    if name.startswith("ode"):
        return ode_sampler(case).sample(field, init, draws=GeneratorDraws(len(init)))
    if name.startswith("sde"):
        return sde_sampler(case, compat).sample(field, init, draws=case.draws(len(init)))
    raise UnknownOutput(f"{name} is neither a loss nor of an ODE or SDE sampler")


def guided(fixture: Fixture, network: Denoiser) -> Tensor:
    """The guided velocity at (in.cfg_x, in.cfg_t), by the config's cfg_scale and, where they are there, its interval
    and channels."""
    config = fixture.config
    x, t, label = fixture.given("cfg_x", "cfg_t", "cfg_y")
    guidance = Guidance(
        config["cfg_scale"],
        start=config.get("cfg_interval_start", 0.0),
        end=config.get("cfg_interval_end", 1.0),
        channels="first3" if config.get("cfg_channels") in (3, "first3", "first three") else "all",
    )
    field = Field(network, get_path("linear"), guidance, label, config["num_classes"], "velocity")
    with torch.no_grad():
        return field.velocity(x, t)
