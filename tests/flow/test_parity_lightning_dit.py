"""LightningDiT's published numbers: training losses at known t and noise, guidance, and seven samplers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_helpers import Tensors, close, load_fixture

from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.objective import flow_matching, flow_matching_terms
from gaekit.flow.path import get_path, shift_time
from gaekit.values import GeneratorDraws
from gaekit_denoisers.lightning_dit import LightningDiT
from gaekit_samplers.adaptive import Dopri5
from gaekit_samplers.ode import Euler, Heun
from gaekit_samplers.sde import EulerMaruyama, SdeHeun

Published = tuple[dict[str, Any], LightningDiT, Tensors, Tensors]
LINEAR = get_path("linear")


def rebuild(name: str) -> Published:
    config, state, inputs, outputs = load_fixture(name)
    settings = LightningDiT.Config(
        use="lightning_dit",
        depth=config["depth"],
        width=config["hidden_size"],
        heads=config["num_heads"],
        qk_norm=config["use_qknorm"],
    )
    denoiser = LightningDiT(
        settings, channels=config["in_channels"], grid=config["input_size"], classes=config["num_classes"]
    )
    denoiser.load_state_dict(state)
    return config, denoiser.eval().requires_grad_(False), inputs, outputs


@pytest.fixture(scope="module")
def published() -> Published:
    return rebuild("lightning_dit")


def test_training_losses(published: Published) -> None:
    _, denoiser, inputs, outputs = published
    arguments = [inputs[f"loss_{name}"] for name in ("t", "x1", "y", "noise")]
    terms = flow_matching_terms(denoiser, LINEAR, *arguments, predicts="velocity", cosine=True)
    close(terms["velocity_mse"], outputs["loss_velocity_mse"])
    close(terms["cosine"], outputs["loss_cosine"])
    losses = flow_matching(denoiser, LINEAR, *arguments, predicts="velocity", cosine=1.0)
    close(losses["velocity_mse"].weighted, outputs["loss_velocity_mse"].mean())
    close(losses["cosine"].weighted, outputs["loss_cosine"].mean())


def test_shift_of_training_times(published: Published) -> None:
    _, _, inputs, _ = published
    close(shift_time(inputs["loss_t_unshifted"], 0.7), inputs["loss_t"])


@pytest.mark.parametrize("name", ["lightning_dit", "lightning_dit_qknorm"])
def test_guided_velocity(name: str) -> None:
    config, denoiser, inputs, outputs = rebuild(name)
    guidance = Guidance(config["cfg_scale"])
    field = Field(denoiser, LINEAR, guidance, inputs["cfg_y"], config["num_classes"], "velocity")
    close(field.velocity(inputs["cfg_x"], inputs["cfg_t"]), outputs["cfg_velocity"])


@pytest.mark.parametrize(
    ("output", "sampler", "settings", "guidance"),
    [
        ("ode_euler", Euler, {"steps": 10, "shift": 0.7}, None),
        ("ode_heun2", Heun, {"steps": 10}, None),
        ("ode_dopri5", Dopri5, {"atol": 1e-6, "rtol": 1e-3, "compat": "release"}, None),
        ("sde_euler", EulerMaruyama, {"steps": 12, "shift": 0.4, "last_step_size": 0.004, "compat": "release"}, None),
        (
            "sde_heun_sigma_tweedie",
            SdeHeun,
            {"steps": 12, "diffusion": "sigma", "last_step": "tweedie", "last_step_size": 0.04, "compat": "release"},
            None,
        ),
        (
            "sde_euler_linear_none",
            EulerMaruyama,
            {"steps": 11, "diffusion": "linear", "last_step": "none", "compat": "release"},
            None,
        ),
        ("ode_euler_cfg", Euler, {"steps": 10, "shift": 0.7}, Guidance(3.0, start=0.125)),
    ],
)
def test_samplers(
    published: Published, output: str, sampler: Any, settings: dict[str, Any], guidance: Guidance | None
) -> None:
    config, denoiser, inputs, outputs = published
    field = Field(denoiser, LINEAR, guidance, inputs["sample_y"], config["num_classes"], "velocity")
    draws = GeneratorDraws(2, torch.Generator().manual_seed(1234))
    close(
        sampler(sampler.Config(use=sampler.name, **settings)).sample(field, inputs["init"], draws=draws),
        outputs[output],
    )
