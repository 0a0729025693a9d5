from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flow_helpers import GaussianDenoiser
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.ddpm import (
    Ddpm,
    ddpm_losses,
    ddpm_terms,
    discretized_log_likelihood,
    learned_log_variance,
    linear_betas,
    normal_kl,
    step_of,
)
from gaekit.values import Prediction

PROCESS = Ddpm()
LABEL = torch.zeros(4, dtype=torch.long)


def latents(seed: int = 0) -> tuple[Tensor, Tensor]:
    data, noise = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return data, noise


def test_linear_betas_are_those_of_the_paper() -> None:
    betas = linear_betas(1000)
    assert [betas[0], betas[-1]] == pytest.approx([1e-4, 0.02])
    assert betas[1] - betas[0] == pytest.approx(betas[-1] - betas[-2])


def test_cosine_betas_keep_a_squared_cosine_of_the_data() -> None:
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    process = Ddpm("cosine")
    for k in (0, 250, 500, 900):
        expected = math.cos(((k + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / start
        assert process.alpha_bar[k] == pytest.approx(expected)


def test_every_step_is_found_again_from_its_time_in_either_precision() -> None:
    times = [PROCESS.time(k) for k in range(1000)]
    for dtype in (torch.float32, torch.float64):
        assert step_of(torch.tensor(times, dtype=dtype)).tolist() == list(range(1000))
    assert step_of(torch.tensor([0.0, 1.0])).tolist() == [999, 0]


def test_uniform_times_make_uniform_steps() -> None:
    counts = torch.bincount(step_of(torch.arange(100_000) / 100_000, 10), minlength=10)
    assert counts.tolist() == pytest.approx([10_000] * 10, abs=1)


def test_the_process_preserves_variance_and_runs_from_noise_to_data() -> None:
    t = torch.linspace(0, 1, 50)
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(50))
    assert (alpha.diff() > 0).all()
    assert alpha[0] < 0.01
    assert sigma[-1] == pytest.approx(0.01, rel=1e-4)  # sqrt of the first beta


@pytest.mark.parametrize("given", ["noise", "score", "data"])
@pytest.mark.parametrize("wanted", ["noise", "score", "data"])
def test_every_conversion_gives_the_truth(given: str, wanted: str) -> None:
    truth, (x, _), t = GaussianDenoiser(PROCESS), latents(), torch.tensor([0.1, 0.4, 0.7, 0.95])
    converted = PROCESS.convert(truth.truth(x, t, given), x, t, given, wanted)
    torch.testing.assert_close(converted, truth.truth(x, t, wanted), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("wanted", ["velocity", "steps"])
def test_there_is_no_velocity_in_integer_steps(wanted: str) -> None:
    x, _ = latents()
    with pytest.raises(GaekitError, match=f"has no {wanted}; it offers data, noise, score"):
        PROCESS.convert(x, x, torch.tensor(0.5), "noise", wanted)


@pytest.mark.parametrize(("count", "some"), [(1000, [0, 1, 2]), (20, [0, 53, 105]), (2, [0, 999]), (1, [0])])
def test_respacing_is_even_from_the_first_step_to_the_last(count: int, some: list[int]) -> None:
    steps = PROCESS.chain(count).steps
    assert list(steps[: len(some)]) == some
    assert len(set(steps)) == count
    assert steps[-1] == (999 if count > 1 else 0)


@pytest.mark.parametrize("count", [0, 1001])
def test_a_chain_of_no_or_too_many_steps_is_refused(count: int) -> None:
    with pytest.raises(GaekitError, match="choose 1 to 1000"):
        PROCESS.chain(count)


def test_the_full_chain_has_the_betas_that_it_was_made_of() -> None:
    assert PROCESS.chain().beta == pytest.approx(linear_betas(1000))


@pytest.mark.parametrize("count", [1000, 20])
@pytest.mark.parametrize("index", [1, 7, 19])
def test_transitions_are_bayes_rule_for_gaussians(count: int, index: int) -> None:
    chain = PROCESS.chain(count)
    beta, below, data, x = chain.beta[index], chain.alpha_bar_below[index], 0.3, -1.1
    precision = 1 / (1 - below) + (1 - beta) / beta  # of x_below: prior N(sqrt(below) data, 1 - below), then x
    mean = (math.sqrt(below) * data / (1 - below) + math.sqrt(1 - beta) * x / beta) / precision
    assert chain.data_share[index] * data + chain.x_share[index] * x == pytest.approx(mean)
    assert math.exp(chain.log_posterior_variance[index]) == pytest.approx(1 / precision)


def test_the_last_transition_is_the_data_and_borrows_its_variance() -> None:
    chain = PROCESS.chain(20)
    assert chain.data_share[0] == pytest.approx(1)
    assert chain.x_share[0] == 0
    assert chain.log_posterior_variance[0] == chain.log_posterior_variance[1]


def test_a_learned_variance_lies_between_its_ends() -> None:
    ends = torch.tensor([-1.0, 0.0, 1.0])
    assert learned_log_variance(ends, -8.0, -2.0).tolist() == [-8, -5, -2]


def test_kl_is_torchs() -> None:
    first, second = torch.distributions.Normal(0.3, 0.5), torch.distributions.Normal(-1.0, 2.0)
    log = [torch.tensor(2 * math.log(s)) for s in (0.5, 2.0)]
    ours = normal_kl(torch.tensor(0.3), log[0], torch.tensor(-1.0), log[1])
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(first, second))


def test_the_256_levels_share_all_of_the_mass() -> None:
    levels = torch.linspace(-1, 1, 256)
    for mean, std in ((0.2, 0.1), (0.9, 0.5), (-3.0, 1.0)):
        likelihood = discretized_log_likelihood(levels, torch.tensor(mean), torch.tensor(math.log(std)))
        assert float(likelihood.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_the_discretised_likelihood_is_the_normals_mass_on_a_level() -> None:
    normal: Any = torch.distributions.Normal(0.1, 0.3)
    level = torch.tensor([-1.0, -0.4, 0.1, 0.7, 1.0])
    lower, upper = normal.cdf(level - 1 / 255), normal.cdf(level + 1 / 255)
    mass = torch.where(level == -1, upper, torch.where(level == 1, 1 - lower, upper - lower))
    ours = discretized_log_likelihood(level, torch.tensor(0.1), torch.tensor(math.log(0.3)))
    torch.testing.assert_close(ours.exp(), mass, rtol=0.02, atol=5e-4)  # the published tanh approximation


def test_the_bound_is_0_for_a_perfect_prediction_with_the_posteriors_variance() -> None:
    data, noise = latents()
    t = torch.tensor([PROCESS.time(k) for k in (1, 10, 300, 999)])

    def oracle(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        return Prediction(noise, torch.full_like(noise, -1))

    terms = ddpm_terms(oracle, PROCESS, t, data, LABEL, noise)
    torch.testing.assert_close(terms["noise_mse"], torch.zeros(4))
    torch.testing.assert_close(terms["variational_bound"], torch.zeros(4), atol=1e-5, rtol=0)


def test_the_bound_teaches_the_variance_and_leaves_the_noise_alone() -> None:
    data, noise = latents()
    out, variance = torch.zeros_like(noise).requires_grad_(), torch.zeros_like(noise).requires_grad_()
    t = torch.tensor([PROCESS.time(k) for k in (0, 1, 300, 999)])
    terms = ddpm_terms(lambda x, t, y: Prediction(out, variance), PROCESS, t, data, LABEL, noise)
    gradients = torch.autograd.grad(terms["variational_bound"].sum(), (out, variance), allow_unused=True)
    assert gradients[0] is None
    assert gradients[1] is not None
    assert torch.isfinite(gradients[1]).all()
    assert (gradients[1].abs().sum((1, 2, 3)) > 0).all()


def test_without_a_learned_variance_there_is_no_bound() -> None:
    data, noise = latents()
    losses = ddpm_losses(lambda x, t, y: Prediction(x), PROCESS, torch.rand(4), data, LABEL, noise)
    assert set(losses) == {"noise_mse"}


def test_losses_are_float32_under_autocast() -> None:
    data, noise = latents()

    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        return Prediction(x.bfloat16(), torch.zeros_like(x, dtype=torch.bfloat16))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = ddpm_losses(denoiser, PROCESS, torch.rand(4), data, LABEL, noise)
    assert set(losses) == {"noise_mse", "variational_bound"}
    assert all(loss.value.dtype == torch.float32 and torch.isfinite(loss.value) for loss in losses.values())


def test_unknown_betas_are_refused() -> None:
    with pytest.raises(GaekitError, match="known: linear, cosine"):
        Ddpm("sigmoid")  # type: ignore[arg-type]


def test_tables_are_made_once_a_device_not_at_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    process, t = Ddpm(), torch.rand(4)
    latent = torch.randn(4, 2, 3, 3)

    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        return Prediction(torch.zeros_like(x), torch.zeros_like(x))

    given = (denoiser, process, t, latent, torch.zeros(4), torch.randn_like(latent))
    first = ddpm_terms(*given)  # type: ignore[arg-type]
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a table was made again"))
    second = ddpm_terms(*given)  # type: ignore[arg-type]
    assert all(torch.equal(first[name], second[name]) for name in first)
