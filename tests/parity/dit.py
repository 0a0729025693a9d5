"""DiT: noise and variance, MSE and VB losses, DDPM and DDIM on respaced steps, guided or not."""

from __future__ import annotations

import re
from typing import Any

import torch
from parity.cases import find_case
from parity.fixture import Fixture, Recompute, UnknownOutput
from parity.rebuild import denoiser
from torch import Tensor

from gaekit.api import Denoiser, Sampler
from gaekit.flow.ddpm import STEPS, Ddpm, ddpm_terms
from gaekit.flow.field import Field
from gaekit.interop.formats import Options
from gaekit.values import GeneratorDraws
from gaekit_samplers.ddpm import Ddim, DdpmSampler


def prepare(fixture: Fixture) -> Recompute:
    network = denoiser("dit", fixture, Options(heads=fixture.config["num_heads"], scale=1.0))
    process = _process(fixture)

    def recompute(name: str) -> Tensor:
        if name == "model":
            return _model(fixture, network, process)
        if name in ("loss", "loss_mse", "loss_vb"):
            return _loss(fixture, network, process, name)
        if found := re.match(r"(ddpm|ddim)(\d*)", name):
            return _sample(fixture, network, process, name, found[1], found[2])
        raise UnknownOutput("no such output of a DiT is known")

    return recompute


def _process(fixture: Fixture) -> Ddpm:
    """By the words of config.diffusion: "1000 steps, linear betas, epsilon prediction, learned-range variance"."""
    text = fixture.config.get("diffusion", "").lower()
    steps = re.search(r"(\d+) steps", text)
    if (steps and int(steps[1]) != STEPS) or re.search(r"(?:x_?start|x0|velocity|v) prediction", text):
        raise UnknownOutput(f"gaekit's DiT predicts epsilon at {STEPS} steps; config.diffusion is: {text}")
    return Ddpm("cosine" if "cosine" in text or "cos_cap" in text else "linear")


def _times(process: Ddpm, step_B: Tensor) -> Tensor:
    return torch.tensor([process.time(int(step)) for step in step_B])


def _model(fixture: Fixture, network: Denoiser, process: Ddpm) -> Tensor:
    x, step, label = fixture.given("x", "t", "y")
    with torch.no_grad():
        prediction = network(x, _times(process, step), label)
    parts = [part for part in (prediction.out_BDHW, prediction.variance_BDHW) if part is not None]
    return torch.cat(parts, dim=1)


def _loss(fixture: Fixture, network: Denoiser, process: Ddpm, name: str) -> Tensor:
    step, data, label, noise = fixture.given("loss_t", "loss_x0", "loss_y", "loss_noise")
    with torch.no_grad():
        terms = ddpm_terms(network, process, _times(process, step), data, label, noise)
    if name == "loss":
        return torch.stack(list(terms.values())).sum(0)
    return terms["noise_mse" if name == "loss_mse" else "variational_bound"]


def _sample(fixture: Fixture, network: Denoiser, process: Ddpm, name: str, kind: str, digits: str) -> Tensor:
    config = fixture.config
    sampling = config.get("sampling", {})
    case, text = find_case(sampling, name), sampling[name].lower()
    respaced = re.search(r"respaced to (\d+)", text)
    steps = int(respaced[1]) if respaced else int(digits) if digits else STEPS
    init, label = fixture.given("init", "sample_y")
    field = Field(network, process, case.guidance, label, config["num_classes"], "noise")
    eta = case.eta or 0.0
    # DDIM at eta 0 draws its noise and does not use it.
    draws = GeneratorDraws(len(init)) if kind == "ddim" and eta == 0 else case.draws(len(init))
    return _sampler(config, network, kind, steps, eta).sample(field, init, draws=draws)


def _sampler(config: dict[str, Any], network: Denoiser, kind: str, steps: int, eta: float) -> Sampler:
    if kind == "ddim":
        return Ddim(Ddim.Config(use="ddim", steps=steps, eta=eta))
    variance = "posterior" if "small" in config.get("diffusion", "") else "beta"
    return DdpmSampler(DdpmSampler.Config.model_validate(
        {"use": "ddpm", "steps": steps, "variance": "learned" if network.learned_variance else variance}
    ))  # fmt: skip
