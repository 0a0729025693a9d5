"""SiT: the prediction, the losses of paths x predictions x weightings, ODE and SDE samples."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from parity.cases import find_case
from parity.fixture import Fixture, Recompute, UnknownOutput
from parity.rebuild import denoiser
from parity.transport import sample, terms
from torch import Tensor

from gaekit.interop.formats import Options

PATHS, QUANTITIES = "linear|gvp|vp", "velocity|noise|score|data"


def prepare(fixture: Fixture) -> Recompute:
    config = fixture.config
    network = denoiser("sit", fixture, Options(heads=config["num_heads"], scale=1.0))

    def recompute(name: str) -> Tensor:
        if name == "model":
            with torch.no_grad():
                out: Tensor = network(*fixture.given("x", "t", "y")).out_BDHW
            return out
        lower = name.lower()
        if found := re.fullmatch(rf"loss_({PATHS})_({QUANTITIES})(?:_(none|velocity|likelihood))?", lower):
            weighting = found[3] or "none"
            return terms(fixture, network, path=found[1], predicts=found[2], weighting=weighting)[f"{found[2]}_mse"]
        if found := re.fullmatch(rf"((?:ode|sde)_\w+?)_({PATHS})_({QUANTITIES})((?:_\w+)?)", lower):
            sampling = config.get("sampling", {})
            template = f"{found[1]}_p_r{found[4]}"  # the config tells of all paths and predictions at once
            told = next((key for key in sampling if key.lower() == template), name)
            case = replace(find_case(sampling, told), path=found[2], predicts=found[3])
            return sample(fixture, network, name, case, "sit")
        raise UnknownOutput("no such output of a SiT is known")

    return recompute
