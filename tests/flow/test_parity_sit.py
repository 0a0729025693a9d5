"""SiT's published numbers: the losses of 3 paths x 3 predictions x 3 weightings, ODE and SDE samples.

The network is restated from its published tensors, since what is on trial is the mathematics around it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dit_restated import Network
from parity_helpers import Tensors, close, load_fixture

from gaekit.flow.field import Field
from gaekit.flow.objective import flow_matching_terms
from gaekit.flow.path import get_path
from gaekit.values import GeneratorDraws
from gaekit_samplers.ode import Euler
from gaekit_samplers.sde import EulerMaruyama

PATHS = ("Linear", "GVP", "VP")


Published = tuple[dict[str, Any], Network, Tensors, Tensors]


@pytest.fixture(scope="module")
def published() -> Published:
    config, state, inputs, outputs = load_fixture("sit")
    return config, Network(config, state), inputs, outputs


def test_the_network_is_restated_right(published: Published) -> None:
    _, network, inputs, outputs = published
    close(network(inputs["x"], inputs["t"], inputs["y"]).out_BDHW, outputs["model"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("predicts", ["velocity", "noise", "score"])
@pytest.mark.parametrize("weighting", ["None", "velocity", "likelihood"])
def test_losses(published: Published, path: str, predicts: str, weighting: str) -> None:
    _, network, inputs, outputs = published
    arguments = [inputs[f"loss_{name}"] for name in ("t", "x1", "y", "noise")]
    terms = flow_matching_terms(
        network,
        get_path(path.lower()),
        *arguments,
        predicts=predicts,
        weighting=weighting.lower(),  # type: ignore[arg-type]
    )
    close(terms[f"{predicts}_mse"], outputs[f"loss_{path}_{predicts}_{weighting}"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("predicts", ["velocity", "noise"])
def test_samples(published: Published, path: str, predicts: str) -> None:
    config, network, inputs, outputs = published
    field = Field(network, get_path(path.lower()), None, inputs["sample_y"], config["num_classes"], predicts)
    draws = GeneratorDraws(2, torch.Generator().manual_seed(1234))
    ode = Euler(Euler.Config(use="euler", steps=10, compat="release"))
    close(ode.sample(field, inputs["init"], draws=draws), outputs[f"ode_euler_{path}_{predicts}"])
    settings: dict[str, Any] = {
        "steps": 12,
        "diffusion": "sigma",
        "last_step": "mean",
        "last_step_size": 0.04,
        "compat": "sit",
    }
    sde = EulerMaruyama(EulerMaruyama.Config(use="euler_maruyama", **settings))
    close(sde.sample(field, inputs["init"], draws=draws), outputs[f"sde_euler_{path}_{predicts}"])
