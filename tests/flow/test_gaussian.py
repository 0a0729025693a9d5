"""The denoiser that takes data for noise: the best there is for data that is noise, and for no other."""

from __future__ import annotations

import math

import pytest
import torch

from gaekit.flow.ddpm import Ddpm, ddpm_losses
from gaekit.flow.gaussian import GaussianDenoiser
from gaekit.flow.objective import flow_matching
from gaekit.flow.path import get_path

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.3])


def batch(count: int = 4096) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 2, 2, 2, generator=generator)
    data = MEAN[:, None, None] + STD[:, None, None] * torch.randn(count, 2, 2, 2, generator=generator)
    return data, noise, torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.8])
def test_its_error_of_the_velocity_is_that_of_the_closed_form(time: float) -> None:
    """Var(data - noise | x_t) = s^2 / (t^2 s^2 + (1 - t)^2) on the linear path, s^2 the variance of the data."""
    data, noise, label = batch()
    path = get_path("linear")
    best = GaussianDenoiser(path, "velocity", MEAN, STD**2)
    (loss,) = flow_matching(
        best, path, torch.full((len(data),), time), data, label, noise, predicts="velocity"
    ).values()
    expected = [s**2 / (time**2 * s**2 + (1 - time) ** 2) for s in STD.tolist()]
    assert float(loss.value) == pytest.approx(math.fsum(expected) / 2, rel=0.03)


@pytest.mark.parametrize("predicts", ["velocity", "noise", "score", "data"])
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_nothing_that_knows_as_much_does_better(path: str, predicts: str) -> None:
    data, noise, label = batch()
    time = torch.full((len(data),), 0.4)

    def loss(mean: torch.Tensor, variance: torch.Tensor) -> float:
        process = get_path(path)
        denoiser = GaussianDenoiser(process, predicts, mean, variance)
        return float(sum(l.value for l in flow_matching(denoiser, process, time, data, label, noise, predicts=predicts).values()))  # fmt: skip  # noqa: E501, E741

    best = loss(MEAN, STD**2)
    assert best < min(loss(MEAN + 0.2, STD**2), loss(MEAN, STD**2 * 1.5), loss(MEAN, STD**2 / 1.5))


def test_it_goes_on_the_chain_too_with_a_variance_that_it_does_not_know() -> None:
    data, noise, label = batch(64)
    process = Ddpm()
    best = GaussianDenoiser(process, "noise", MEAN, STD**2, learned_variance=True)
    losses = ddpm_losses(best, process, torch.full((64,), 0.5), data, label, noise)
    assert set(losses) == {"noise_mse", "variational_bound"}
    assert all(bool(term.value.isfinite()) for term in losses.values())
