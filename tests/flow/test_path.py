from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_helpers import GaussianDenoiser
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.path import PATHS, Path, get_path, shift_time

QUANTITIES = ("velocity", "noise", "score", "data")
INNER = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


@pytest.fixture(params=sorted(PATHS))
def path(request: pytest.FixtureRequest) -> Path:
    return get_path(request.param)


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0]


def test_derivatives_agree_with_autograd(path: Path) -> None:
    torch.testing.assert_close(path.alpha_dot(INNER), derivative(path.alpha, INNER))
    torch.testing.assert_close(path.sigma_dot(INNER), derivative(path.sigma, INNER))


def test_drift_variance_is_the_growth_of_the_noise_to_signal_ratio(path: Path) -> None:
    growth = derivative(lambda t: (path.sigma(t) / path.alpha(t)) ** 2, INNER)
    torch.testing.assert_close(path.drift_variance(INNER), -(path.alpha(INNER) ** 2) * growth / 2)


def test_velocity_is_the_time_derivative_of_the_interpolant(path: Path) -> None:
    data, noise = torch.randn(2, 25, dtype=torch.float64)
    moved = derivative(lambda t: path.interpolate(data, noise, t), INNER)
    torch.testing.assert_close(path.velocity(data, noise, INNER), moved)


def test_drift_and_score_make_the_velocity(path: Path) -> None:
    truth = GaussianDenoiser(path)
    x = torch.randn(25, 3, 2, 2, dtype=torch.float64)
    drift, variance = path.drift(x, INNER.view(-1, 1, 1, 1))
    velocity = truth.truth(x, INNER, "velocity")
    torch.testing.assert_close(drift + variance * truth.truth(x, INNER, "score"), velocity)


def test_score_is_the_gradient_of_the_marginals_log_density(path: Path) -> None:
    x = torch.randn(25, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    truth, t = GaussianDenoiser(path), INNER.view(-1, 1, 1, 1)
    spread = torch.sqrt(path.alpha(t) ** 2 * truth.std**2 + path.sigma(t) ** 2)
    density = torch.distributions.Normal(path.alpha(t) * truth.mean, spread)
    log_density: Tensor = density.log_prob(x)  # type: ignore[no-untyped-call]
    gradient = torch.autograd.grad(log_density.sum(), x)[0]
    velocity = truth.truth(x.detach(), INNER, "velocity")
    torch.testing.assert_close(path.convert(velocity, x.detach(), INNER, "velocity", "score"), gradient)


@pytest.mark.parametrize("given", QUANTITIES)
@pytest.mark.parametrize("wanted", QUANTITIES)
def test_every_conversion_gives_the_truth(path: Path, given: str, wanted: str) -> None:
    truth = GaussianDenoiser(path)
    x = torch.randn(25, 3, 2, 2, dtype=torch.float64)
    converted = path.convert(truth.truth(x, INNER, given), x, INNER, given, wanted)
    torch.testing.assert_close(converted, truth.truth(x, INNER, wanted))


def test_scalar_and_per_image_times_convert_alike(path: Path) -> None:
    x, value = torch.randn(2, 4, 3, 2, 2)
    alone = path.convert(value, x, torch.tensor(0.3, dtype=torch.float64), "velocity", "score")
    torch.testing.assert_close(alone, path.convert(value, x, torch.full((4,), 0.3), "velocity", "score"))
    assert alone.dtype == torch.float32


@pytest.mark.parametrize("name", ["linear", "gvp"])
def test_linear_and_gvp_run_from_noise_alone_to_data_alone(name: str) -> None:
    path, ends = get_path(name), torch.tensor([0.0, 1.0])
    assert path.alpha(ends).tolist() == [0, 1]
    assert path.sigma(ends).tolist() == [1, 0]
    assert path.starts_empty


def test_vp_ends_at_data_and_starts_with_a_trace_of_it() -> None:
    path, ends = get_path("vp"), torch.tensor([0.0, 1.0], dtype=torch.float64)
    # beta from 0.1 to 20: log alpha_0 = -(20 - 0.1) / 4 - 0.1 / 2
    assert path.alpha(ends).tolist() == pytest.approx([math.exp(-5.025), 1.0])
    assert path.sigma(ends)[1] == 0
    torch.testing.assert_close(path.alpha(INNER) ** 2 + path.sigma(INNER) ** 2, torch.ones_like(INNER))
    assert not path.starts_empty


@pytest.mark.parametrize("given", QUANTITIES)
def test_velocity_is_finite_on_the_whole_closed_interval_of_bounds(path: Path, given: str) -> None:
    x, value = torch.randn(2, 2, 3, 2, 2)
    for t in path.bounds(given):
        velocity = path.convert(value, x, torch.tensor(t, dtype=torch.float64), given, "velocity")
        assert torch.isfinite(velocity).all()


def test_bounds_are_open_only_where_the_velocity_has_no_value() -> None:
    assert get_path("linear").bounds("velocity") == (0.0, 1.0)
    assert get_path("gvp").bounds("noise") == (1e-3, 1.0)
    assert get_path("linear").bounds("data") == (0.0, 1 - 1e-3)
    assert get_path("vp").bounds("noise") == (0.0, 1 - 1e-3)


def test_diffusion_forms_have_their_published_values() -> None:
    path, t = get_path("linear"), torch.tensor(0.25, dtype=torch.float64)
    expected: dict[Any, float] = {
        "sbdm": 0.75 / 0.25,
        "sigma": 0.75,
        "linear": 0.75,
        "constant": 1.0,
        "decreasing": 0.25 * (math.cos(math.pi / 4) + 1) ** 2,
        "increasing-decreasing": 0.5,
    }
    assert {form: float(path.diffusion(t, form)) for form in expected} == pytest.approx(expected)
    assert float(path.diffusion(t, "sigma", norm=3.0)) == pytest.approx(2.25)
    assert float(path.diffusion(t, "decreasing", norm=2.0)) == pytest.approx(0.25 * (math.sqrt(2) + 1) ** 2)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(GaekitError, match="known: linear, gvp, vp"):
        get_path("linaer")
    with pytest.raises(GaekitError, match="known: sbdm"):
        get_path("linear").diffusion(torch.tensor(0.5), "smba")  # type: ignore[arg-type]
    with pytest.raises(GaekitError, match="has no curl"):
        get_path("linear").convert(torch.ones(1), torch.ones(1), torch.tensor(0.5), "velocity", "curl")


def test_shift_keeps_the_ends_and_is_undone_by_its_inverse() -> None:
    t = torch.linspace(0, 1, 11)
    shifted = shift_time(t, 0.4)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    assert (shifted[1:-1] < t[1:-1]).all()
    torch.testing.assert_close(shift_time(shifted, 1 / 0.4), t)


def test_shift_in_the_other_time_convention_is_the_inverse_shift() -> None:
    t = torch.linspace(0, 1, 11)  # RAE and SD3 count t = 1 as noise
    torch.testing.assert_close(1 - shift_time(1 - t, 1 / 0.7), shift_time(t, 0.7))
