from __future__ import annotations

from typing import Any

import pytest
import torch
from flow_helpers import GaussianDenoiser
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.objective import drop_labels, flow_matching, flow_matching_terms
from gaekit.flow.path import PATHS, get_path
from gaekit.flow.process import expand
from gaekit.values import Prediction

PREDICTIONS = ("velocity", "noise", "score", "data")
LABEL = torch.arange(6)
Batch = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 6, 3, 4, 4, generator=generator)
    return torch.linspace(0.05, 0.95, 6), data, noise


class Fixed:
    """A denoiser that says one thing, and keeps what it was asked."""

    def __init__(self, out: Tensor):
        self.out = out

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        self.x, self.t, self.label = x, t, label
        return Prediction(self.out)


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_right_answer_costs_nothing(name: str, predicts: str, batch: Batch) -> None:
    t, data, noise = batch
    path = get_path(name)
    x = path.interpolate(data, noise, t)
    velocity = path.velocity(data, noise, expand(t, data))
    answer = Fixed(path.convert(velocity, x, t, "velocity", predicts))
    terms = flow_matching_terms(answer, path, t, data, LABEL, noise, predicts=predicts, cosine=True)
    assert all((value.abs() < 1e-5).all() for value in terms.values())
    torch.testing.assert_close(answer.x, x)


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("predicts", ["noise", "score", "data"])
def test_velocity_weighting_makes_any_prediction_pay_its_error_of_velocity(
    name: str, predicts: str, batch: Batch
) -> None:
    t, data, noise = batch
    path, out = get_path(name), torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x = path.interpolate(data, noise, t)
    as_velocity = path.convert(out, x, t, predicts, "velocity")
    target = path.velocity(data, noise, expand(t, data))
    terms = flow_matching_terms(Fixed(out), path, t, data, LABEL, noise, predicts=predicts, weighting="velocity")
    torch.testing.assert_close(
        terms[f"{predicts}_mse"], (as_velocity - target).square().mean((1, 2, 3)), rtol=1e-3, atol=1e-4
    )


def test_likelihood_weighting_is_the_drift_variance_times_the_error_of_the_score(batch: Batch) -> None:
    t, data, noise = batch
    path = get_path("gvp")
    out = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    terms = flow_matching_terms(Fixed(out), path, t, data, LABEL, noise, predicts="score", weighting="likelihood")
    error = (out + noise / path.sigma(expand(t, data))).square().mean((1, 2, 3))
    torch.testing.assert_close(terms["score_mse"], path.drift_variance(t) * error)


def test_the_terms_are_means_over_the_batch_and_cosine_carries_its_weight(batch: Batch) -> None:
    t, data, noise = batch
    path, silent = get_path("linear"), Fixed(torch.ones_like(data))
    losses = flow_matching(silent, path, t, data, LABEL, noise, predicts="velocity", cosine=0.5)
    target = data - noise
    assert losses["velocity_mse"].value == pytest.approx(float((1 - target).square().mean()), rel=1e-5)
    cosine = target.sum(1) / (target.norm(dim=1) * 3**0.5)
    assert losses["cosine"].value == pytest.approx(float(1 - cosine.mean()), rel=1e-5)
    assert losses["cosine"].weight == 0.5
    assert set(flow_matching(silent, path, t, data, LABEL, noise, predicts="velocity")) == {"velocity_mse"}
    assert silent.label is LABEL


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("weighting", ["none", "velocity", "likelihood"])
def test_times_of_exactly_0_and_1_give_finite_losses_and_gradients(
    name: str, predicts: str, weighting: Any, batch: Batch
) -> None:
    _, data, noise = batch
    out = torch.zeros_like(data).requires_grad_()
    t = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    terms = flow_matching_terms(
        Fixed(out), get_path(name), t, data, LABEL, noise, predicts=predicts, weighting=weighting, cosine=True
    )
    total = torch.stack([value.sum() for value in terms.values()]).sum()
    assert torch.isfinite(total)
    assert torch.isfinite(torch.autograd.grad(total, out)[0]).all()


def test_velocity_of_a_linear_path_is_trained_at_the_very_ends(batch: Batch) -> None:
    _, data, noise = batch
    denoiser, t = Fixed(torch.zeros_like(data)), torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    flow_matching(denoiser, get_path("linear"), t, data, LABEL, noise, predicts="velocity")
    assert denoiser.t.tolist() == t.tolist()


def test_losses_are_float32_under_autocast(batch: Batch) -> None:
    t, data, noise = batch
    weight = torch.eye(3)[:, :, None, None].requires_grad_()

    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        return Prediction(torch.nn.functional.conv2d(x, weight))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = flow_matching_terms(
            denoiser, get_path("linear"), t, data, LABEL, noise, predicts="velocity", cosine=True
        )
    rounded = get_path("linear").interpolate(data, noise, t).bfloat16().float()
    assert all(value.dtype == torch.float32 for value in terms.values())
    torch.testing.assert_close(terms["velocity_mse"], (rounded - (data - noise)).square().mean((1, 2, 3)))


def test_the_truth_is_the_minimum_of_the_loss() -> None:
    path, generator = get_path("linear"), torch.Generator().manual_seed(0)
    truth = GaussianDenoiser(path)
    data = truth.mean + truth.std * torch.randn(4000, 2, 2, 2, generator=generator)
    noise, t = torch.randn(4000, 2, 2, 2, generator=generator), torch.rand(4000, generator=generator)

    def loss(factor: float) -> Tensor:
        def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
            return Prediction(factor * truth(x, t, label).out_BDHW)

        label = torch.zeros(4000, dtype=torch.long)
        return flow_matching(denoiser, path, t, data, label, noise, predicts="velocity")["velocity_mse"].value

    assert loss(1.0) < loss(0.97)
    assert loss(1.0) < loss(1.03)


def test_unknown_settings_are_refused(batch: Batch) -> None:
    t, data, noise = batch
    arguments = (Fixed(data), get_path("linear"), t, data, LABEL, noise)
    with pytest.raises(GaekitError, match="known: data, noise, score, velocity"):
        flow_matching(*arguments, predicts="curl")
    with pytest.raises(GaekitError, match="known: none, velocity, likelihood"):
        flow_matching(*arguments, predicts="noise", weighting="snr")  # type: ignore[arg-type]


def test_labels_are_dropped_where_the_number_is_below_the_probability() -> None:
    label, uniform = torch.tensor([1, 2, 3]), torch.tensor([0.0, 0.1, 0.5])
    assert drop_labels(label, 10, 0.1, uniform).tolist() == [10, 2, 3]
    assert drop_labels(label, 10, 0.0, uniform).tolist() == [1, 2, 3]
    assert drop_labels(label, 10, 1.0, uniform).tolist() == [10, 10, 10]


@pytest.mark.parametrize("clamp", [0.05, 0.2])
def test_the_weight_of_an_error_of_the_data_is_that_of_clamped_velocities(clamp: float) -> None:
    """JiT's loss: velocities from data by (data - x) / max(1 - t, clamp), of prediction and target alike."""
    data, noise = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    t, guess = torch.tensor([0.1, 0.7, 0.97, 0.9999]), torch.randn(4, 3, 2, 2)
    label = torch.zeros(4, dtype=torch.int64)
    terms = flow_matching_terms(
        Fixed(guess), get_path("linear"), t, data, label, noise, predicts="data", weighting="velocity", clamp=clamp
    )
    kept = t.clamp(max=1 - 1e-3)[:, None, None, None]
    x = kept * data + (1 - kept) * noise
    ours, target = ((value - x) / (1 - kept).clamp(min=clamp) for value in (guess, data))
    torch.testing.assert_close(terms["data_mse"], (ours - target).square().flatten(1).mean(1))
