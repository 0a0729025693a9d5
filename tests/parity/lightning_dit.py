"""LightningDiT: the velocity, guided or not, its training losses, its samplers."""

from __future__ import annotations

import re

import torch
from parity.cases import find_case
from parity.fixture import Fixture, Recompute, UnknownOutput
from parity.rebuild import denoiser
from parity.transport import guided, sample, terms
from torch import Tensor

from gaekit.interop.formats import Options


def prepare(fixture: Fixture) -> Recompute:
    config = fixture.config
    options = Options(
        heads=config["num_heads"],
        grid=config["input_size"],
        absolute_positions=config.get("use_abs_pos", "pos_embed" in fixture.state),
        scale=1.0,
    )
    network = denoiser("lightningdit", fixture, options)

    def recompute(name: str) -> Tensor:
        if name == "velocity":
            with torch.no_grad():
                velocity: Tensor = network(*fixture.given("x", "t", "y")).out_BDHW
            return velocity
        if name == "cfg_velocity":
            return guided(fixture, network)
        if name == "loss_cosine":
            return terms(fixture, network, path="linear", predicts="velocity")["cosine"]
        if found := re.fullmatch(r"loss_(velocity|noise|score|data)_mse", name):
            return terms(fixture, network, path="linear", predicts=found[1])[f"{found[1]}_mse"]
        if name.startswith(("ode_", "sde_")):
            return sample(fixture, network, name, find_case(config.get("sampling", {}), name), "release")
        raise UnknownOutput("no such output of a LightningDiT is known")

    return recompute
