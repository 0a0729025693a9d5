"""DiT's published numbers: losses with a learned variance, ancestral and DDIM chains, guidance on three channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dit_restated import Network
from parity_helpers import Tensors, close, load_fixture
from torch import Tensor

from gaekit.flow.ddpm import Ddpm, ddpm_terms, step_of
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.values import GeneratorDraws, Prediction
from gaekit_samplers.ddpm import Ddim, DdpmSampler

PROCESS = Ddpm()
Published = tuple[Any, Tensors, Tensors]


class DoubledDraws(GeneratorDraws):
    """The published guidance draws for both halves of its doubled batch."""

    def normal(self, *tail: int) -> Tensor:
        return torch.randn(2 * self.batch, *tail, generator=self.generator)[: self.batch]


@pytest.fixture(scope="module")
def published() -> Published:
    config, state, inputs, outputs = load_fixture("dit")
    network = Network(config, state)

    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        return network(x, step_of(t), label)

    return denoiser, inputs, outputs


def test_the_network_is_restated_right(published: Published) -> None:
    denoiser, inputs, outputs = published
    prediction = denoiser(inputs["x"], torch.tensor([PROCESS.time(int(k)) for k in inputs["t"]]), inputs["y"])
    close(torch.cat([prediction.out_BDHW, prediction.variance_BDHW], 1), outputs["model"])


def test_losses(published: Published) -> None:
    denoiser, inputs, outputs = published
    t = torch.tensor([PROCESS.time(int(k)) for k in inputs["loss_t"]])
    terms = ddpm_terms(denoiser, PROCESS, t, inputs["loss_x0"], inputs["loss_y"], inputs["loss_noise"])
    close(terms["noise_mse"], outputs["loss_mse"])
    close(terms["variational_bound"], outputs["loss_vb"])
    close(terms["noise_mse"] + terms["variational_bound"], outputs["loss"])


@pytest.mark.parametrize(
    ("output", "sampler", "guidance", "source"),
    [
        ("ddpm20", DdpmSampler, None, GeneratorDraws),
        ("ddim20", Ddim, None, GeneratorDraws),
        ("ddpm20_cfg", DdpmSampler, Guidance(4.0, channels="first3"), DoubledDraws),
    ],
)
def test_samples(published: Published, output: str, sampler: Any, guidance: Guidance | None, source: Any) -> None:
    denoiser, inputs, outputs = published
    field = Field(denoiser, PROCESS, guidance, inputs["sample_y"], 10, "noise")
    chain = sampler(sampler.Config(use=sampler.name, steps=20))
    draws = source(2, torch.Generator().manual_seed(77))
    close(chain.sample(field, inputs["init"], draws=draws), outputs[output])
