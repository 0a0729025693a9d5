"""The likelihood of a flow whose density is known: against torch.distributions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from flow_helpers import gaussian_field
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from gaekit.errors import GaekitError
from gaekit.flow.ddpm import Ddpm
from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.likelihood import Solver, log_likelihood
from gaekit.flow.path import Path, get_path
from gaekit.flow.process import expand
from gaekit.values import GeneratorDraws, Prediction

MEAN = torch.tensor([0.7, -0.4, 0.0, 1.1])
SPREAD = torch.tensor([0.1, 0.5, 1.0, 1.6])
TURN = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3)))[0]
COVARIANCE = TURN @ torch.diag(SPREAD**2) @ TURN.T
GAUSSIAN = MultivariateNormal(MEAN.double(), COVARIANCE.double())
CENTRES, WIDTHS = torch.tensor([[-1.0, 0.5], [1.2, -0.3], [0.2, 1.4]]), torch.tensor([0.3, 0.5, 0.2])
MIXTURE = MixtureSameFamily(
    Categorical(probs=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)),
    Independent(Normal(CENTRES.double(), WIDTHS.double()[:, None].expand(3, 2)), 1),
)


def field_of(denoiser: Callable[[Tensor, Tensor, Tensor], Prediction], path: Path, predicts: str, batch: int) -> Field:
    return Field(denoiser, path, None, torch.zeros(batch, dtype=torch.long), 10, predicts)


def quantity(path: Path, data: Tensor, noise: Tensor, t: Tensor, predicts: str) -> Prediction:
    return Prediction({"velocity": path.velocity(data, noise, t), "noise": noise, "data": data}[predicts])


def gaussian(path: Path, predicts: str, batch: int) -> Field:
    """The exact field of N(MEAN, COVARIANCE) over the four numbers of a (4, 1, 1) latent."""

    def denoiser(x: Tensor, t_B: Tensor, label: Tensor) -> Prediction:
        t = expand(t_B, x)
        alpha, sigma = path.alpha(t), path.sigma(t)
        off = (x - alpha * MEAN.view(4, 1, 1)).flatten(1) @ TURN
        share = off / ((alpha.flatten(1) * SPREAD) ** 2 + sigma.flatten(1) ** 2)
        data = MEAN.view(4, 1, 1) + alpha * (share * SPREAD**2 @ TURN.T).view_as(x)
        return quantity(path, data, sigma * (share @ TURN.T).view_as(x), t, predicts)

    return field_of(denoiser, path, predicts, batch)


def mixture(path: Path, batch: int) -> Field:
    """The exact velocity of three round heaps in the plane of a (2, 1, 1) latent."""

    def denoiser(x: Tensor, t_B: Tensor, label: Tensor) -> Prediction:
        t = expand(t_B, x)[..., 0]  # (B, 1, 1): images, heaps, numbers
        alpha, sigma = path.alpha(t), path.sigma(t)
        off = x.flatten(1)[:, None] - alpha * CENTRES
        variance = (alpha * WIDTHS[:, None]) ** 2 + sigma**2
        log_weight = torch.tensor([0.5, 0.3, 0.2]).log() - (off**2).sum(2) / (2 * variance[..., 0])
        weight = (log_weight - variance[..., 0].log()).softmax(1)[..., None]
        data = (weight * (CENTRES + alpha * WIDTHS[:, None] ** 2 / variance * off)).sum(1)
        noise = (weight * sigma / variance * off).sum(1)
        return quantity(path, data.view_as(x), noise.view_as(x), expand(t_B, x), "velocity")

    return field_of(denoiser, path, "velocity", batch)


@pytest.mark.parametrize("predicts", ["velocity", "noise", "data"])
@pytest.mark.parametrize("name", ["linear", "gvp", "vp"])
def test_a_gaussian_of_any_shape_has_its_density(name: str, predicts: str) -> None:
    torch.manual_seed(0)
    data = GAUSSIAN.sample((256,)).view(-1, 4, 1, 1)
    found = log_likelihood(gaussian(get_path(name), predicts, 256), data, probes=None)
    wrong = (found - GAUSSIAN.log_prob(data.flatten(1))) / 4
    assert abs(float(wrong.mean())) < 1e-3
    starts_normal = name != "vp" and predicts != "noise"  # elsewhere the path's start is nearly the sampler's noise
    assert float(wrong.abs().max()) < (1e-3 if starts_normal else 1e-2)


@pytest.mark.parametrize("name", ["linear", "gvp", "vp"])
def test_a_mixture_has_its_density(name: str) -> None:
    torch.manual_seed(0)
    data = torch.cat([MIXTURE.sample((200,)), 3 * torch.rand(56, 2) - 1.5]).view(-1, 2, 1, 1)  # between the heaps too
    found = log_likelihood(mixture(get_path(name), 256), data, probes=None)
    wrong = (found - MIXTURE.log_prob(data.flatten(1))) / 2
    assert abs(float(wrong.mean())) < 1e-3
    assert float(wrong.abs().max()) < 1e-2


def test_a_density_that_is_no_longer_normalised_would_be_seen() -> None:
    side = torch.linspace(-3, 3, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side).view(-1, 2, 1, 1)
    found = log_likelihood(mixture(get_path("linear"), len(grid)), grid, probes=None, solver=Solver("rk4", steps=40))
    assert float(found.exp().sum() * 0.01) == pytest.approx(1, abs=2e-3)


def test_one_probe_is_right_on_average_and_more_scatter_less() -> None:
    torch.manual_seed(0)
    data = GAUSSIAN.sample((1,)).view(1, 4, 1, 1).expand(400, 4, 1, 1)
    truth = float(GAUSSIAN.log_prob(data[0].flatten()))
    draws = GeneratorDraws(400, torch.Generator().manual_seed(1))
    spread = []
    for probes in (1, 8):
        field = gaussian(get_path("linear"), "velocity", 400)
        found = log_likelihood(field, data, probes=probes, draws=draws, solver=Solver("rk4", steps=40))
        spread.append(float(found.std()))
        assert float(found.mean()) == pytest.approx(truth, abs=4 * spread[-1] / 20)
    assert spread[0] / spread[1] == pytest.approx(math.sqrt(8), rel=0.25)


def test_a_probe_is_exact_where_the_numbers_of_a_latent_are_independent() -> None:
    data = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    exact = log_likelihood(gaussian_field(), data, probes=None)
    probed = log_likelihood(gaussian_field(), data, draws=GeneratorDraws(4))
    torch.testing.assert_close(probed, exact, rtol=0, atol=1e-4)
    truth = Normal(0.7, 0.5).log_prob(data).flatten(1).sum(1).double()
    torch.testing.assert_close(exact, truth, rtol=0, atol=12e-4)


def test_rk4_reaches_what_dopri5_does() -> None:
    data = GAUSSIAN.sample((16,)).view(-1, 4, 1, 1)
    subject = gaussian(get_path("linear"), "velocity", 16)
    adaptive = log_likelihood(subject, data, probes=None)
    before = subject.evaluations
    fixed = log_likelihood(subject, data, probes=None, solver=Solver("rk4", steps=200))
    torch.testing.assert_close(fixed, adaptive, rtol=0, atol=1e-3)
    assert subject.evaluations - before == 16 * 200 * 4


def test_nothing_is_kept_of_the_way() -> None:
    data = torch.randn(2, 4, 1, 1, requires_grad=True)
    found = log_likelihood(gaussian(get_path("vp"), "noise", 2), data, probes=None)
    assert not found.requires_grad
    assert found.dtype == torch.float64
    assert data.grad is None


def test_guided_fields_and_chains_are_refused() -> None:
    data = torch.zeros(4, 3, 2, 2)
    guided = gaussian_field()
    guided.guidance = Guidance(2.0)
    with pytest.raises(GaekitError, match=r"guidance\.scale is 2\.0; set 1"):
        log_likelihood(guided, data, probes=None)
    chain = Field(lambda x, t, y: Prediction(x), Ddpm(), None, torch.zeros(4, dtype=torch.long), 10, "noise")
    with pytest.raises(GaekitError, match="'ddpm' has no velocity"):
        log_likelihood(chain, data, probes=None)
    for probes, draws in ((0, GeneratorDraws(4)), (1, None)):
        with pytest.raises(GaekitError, match="one probe or more"):
            log_likelihood(gaussian_field(), data, probes=probes, draws=draws)
