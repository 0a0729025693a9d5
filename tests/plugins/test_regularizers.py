from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from gaekit.values import GeneratorDraws, Latent
from gaekit_noises import gaekit_components as noises
from gaekit_noises.noises import Uniform
from gaekit_regularizers import gaekit_components
from gaekit_regularizers.kl import Kl
from gaekit_regularizers.norms import LayerNorm, Plain, RmsNorm, UnitNorm
from gaekit_regularizers.standardize import Standardize

ALL: list[Any] = list(gaekit_components())
NOISES: dict[str, Any] = {cls.name: cls for cls in noises()}


def make(cls: Any, dim: int = 6, **settings: Any) -> Any:
    return cls(cls.Config(use=cls.name, **settings), latent_dim=dim, grid=5)


def moments(channels: int = 6, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(4, channels, 5, 5, generator=torch.Generator().manual_seed(seed)) + 1


def over_channels(function: Any, x: Tensor) -> Tensor:
    """torch's norms work on the last dimension."""
    result: Tensor = function(x.movedim(1, -1)).movedim(-1, 1)
    return result


def mean(cls: Any, x: Tensor, **settings: Any) -> Tensor:
    latent = make(cls, **settings)(x)
    assert latent.std_BDHW == latent.scale == pytest.approx(6**-0.5 if cls is UnitNorm else 1.0)
    assert latent.penalty is None
    result: Tensor = latent.mean_BDHW
    return result


def test_rms_norm_is_torchs_over_channels() -> None:
    x = moments()
    torch.testing.assert_close(mean(RmsNorm, x), over_channels(lambda h: F.rms_norm(h, (6,), eps=1e-6), x))


def test_rms_norm_gives_each_position_norm_sqrt_d() -> None:
    norm = mean(RmsNorm, moments()).norm(dim=1)
    torch.testing.assert_close(norm, torch.full((4, 5, 5), math.sqrt(6)))


def test_layer_norm_is_torchs_over_channels() -> None:
    x = moments()
    torch.testing.assert_close(mean(LayerNorm, x), over_channels(lambda h: F.layer_norm(h, (6,), eps=1e-6), x))


def test_unit_norm_is_the_direction_alone() -> None:
    latent = mean(UnitNorm, moments())
    torch.testing.assert_close(latent.norm(dim=1), torch.ones(4, 5, 5))
    torch.testing.assert_close(latent * math.sqrt(6), mean(RmsNorm, moments()))


def test_none_is_the_identity() -> None:
    assert torch.equal(mean(Plain, moments()), moments())


@pytest.mark.parametrize("cls", [RmsNorm, LayerNorm, UnitNorm])
def test_a_position_of_zeros_stays_finite_also_backwards(cls: Any) -> None:
    x = torch.zeros(1, 6, 2, 2, requires_grad=True)
    latent = mean(cls, x)
    assert torch.equal(latent, torch.zeros_like(latent))
    assert torch.isfinite(torch.autograd.grad(latent.sum(), x)[0]).all()


def posterior(latent: Latent) -> torch.distributions.Normal:
    assert isinstance(latent.std_BDHW, Tensor)
    return torch.distributions.Normal(latent.mean_BDHW, latent.std_BDHW)


def test_kl_is_torch_distributions_summed_over_the_latent_and_averaged_over_the_batch() -> None:
    latent = make(Kl, weight=0.25)(moments(12))
    standard = torch.distributions.Normal(torch.zeros(4, 6, 5, 5), torch.ones(4, 6, 5, 5))
    divergence = torch.distributions.kl_divergence(posterior(latent), standard)
    torch.testing.assert_close(latent.penalty.value, divergence.sum() / 4)
    torch.testing.assert_close(latent.penalty.weighted, divergence.sum() / 16)


def test_kl_reads_mean_then_log_variance_from_twice_the_channels() -> None:
    regularizer, x = make(Kl), moments(12)
    latent = regularizer(x)
    assert regularizer.channels == 12
    assert torch.equal(latent.mean_BDHW, x[:, :6])
    torch.testing.assert_close(latent.std_BDHW, x[:, 6:].exp().sqrt())


def test_kl_clamps_the_log_variance() -> None:
    x = torch.cat([torch.zeros(1, 6, 1, 1), torch.tensor([-99.0, -31, -1, 0, 5, 99]).view(1, 6, 1, 1)], dim=1)
    latent = make(Kl, clamp=(-30, 4))(x)
    expected = torch.tensor([-15, -15, -0.5, 0, 2, 2]).exp()
    torch.testing.assert_close(latent.std_BDHW.flatten(), expected)
    with pytest.raises(ValidationError, match="is no range"):
        make(Kl, clamp=(20, -30))


def test_kl_of_the_standard_normal_is_nothing() -> None:
    assert make(Kl)(torch.zeros(2, 12, 3, 3)).penalty.value == 0


def batches() -> list[Tensor]:
    return [moments(scale=1.0 + seed, seed=seed) for seed in range(5)]


def test_standardize_finds_the_statistics_of_all_that_it_saw() -> None:
    regularizer = make(Standardize)
    for x in batches():
        regularizer(x)
    variance, average = torch.var_mean(torch.cat(batches()), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(regularizer.mean.flatten(), average)
    torch.testing.assert_close(regularizer.variance.flatten(), variance)
    whole = regularizer.eval()(torch.cat(batches())).mean_BDHW
    torch.testing.assert_close(whole.mean((0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.var((0, 2, 3), correction=0), torch.ones(6))


def test_standardize_by_position_has_statistics_of_each_number_of_the_latent() -> None:
    """RAE's calculate_stat.py: mean and variance over images alone, (C, H, W)."""
    regularizer = make(Standardize, statistics="position")
    for x in batches():
        regularizer(x)
    variance, average = torch.var_mean(torch.cat(batches()), dim=0, correction=0)
    assert average.shape == (6, 5, 5)
    torch.testing.assert_close(regularizer.mean, average)
    torch.testing.assert_close(regularizer.variance, variance)
    x = moments(seed=7)
    expected = (x - average) / torch.sqrt(variance + 1e-5)
    torch.testing.assert_close(regularizer.eval()(x).mean_BDHW, expected)


@pytest.mark.parametrize("statistics", ["channel", "position"])
def test_noise_of_a_standardised_latent_is_that_of_the_features_before(statistics: str) -> None:
    """RAE's rae.py: z = features + tau * U(0, 1) * N(0, I), and then (z - mean) / sqrt(var + eps)."""
    regularizer = make(Standardize, statistics=statistics)
    for x in batches():
        regularizer(x)
    regularizer.eval()
    x, noise = moments(seed=7), Uniform(Uniform.Config(use="uniform", max=0.8))
    z = noise.perturb(regularizer(x), GeneratorDraws(4, torch.Generator().manual_seed(3)))
    again = GeneratorDraws(4, torch.Generator().manual_seed(3))
    level, eps = 0.8 * again.uniform(), again.normal(6, 5, 5)
    noised = x + level[:, None, None, None] * eps
    torch.testing.assert_close(z, (noised - regularizer.mean) / torch.sqrt(regularizer.variance + 1e-5))


def test_standardize_with_momentum_1_knows_the_last_batch_alone() -> None:
    regularizer = make(Standardize, momentum=1.0)
    for x in batches():
        regularizer(x)
    variance, average = torch.var_mean(batches()[-1], dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(regularizer.mean.flatten(), average)
    torch.testing.assert_close(regularizer.variance.flatten(), variance)


def test_standardize_with_momentum_takes_the_first_batch_whole_and_then_follows() -> None:
    regularizer, (first, second, third, *_) = make(Standardize, momentum=0.4), batches()
    for x in (first, second, third):
        regularizer(x)
    average = (first.mean((0, 2, 3)) + second.mean((0, 2, 3))) / 2  # 1 / 2 is more than the momentum
    torch.testing.assert_close(regularizer.mean.flatten(), 0.6 * average + 0.4 * third.mean((0, 2, 3)))


def test_standardize_keeps_still_in_evaluation_and_travels_in_the_state() -> None:
    regularizer = make(Standardize)
    regularizer(moments())
    before = {name: value.clone() for name, value in regularizer.state_dict().items()}
    fixed = regularizer.eval()(moments(seed=9)).mean_BDHW
    assert all(torch.equal(before[name], value) for name, value in regularizer.state_dict().items())
    other = make(Standardize).eval()
    other.load_state_dict(before)
    assert torch.equal(other(moments(seed=9)).mean_BDHW, fixed)


def test_standardize_may_be_called_twice_before_one_backward() -> None:
    regularizer, x = make(Standardize), moments().requires_grad_()
    both = regularizer(x).mean_BDHW.square().sum() + regularizer(2 * x).mean_BDHW.square().sum()
    assert torch.isfinite(torch.autograd.grad(both, x)[0]).all()


def test_standardize_of_a_constant_channel_is_finite() -> None:
    assert torch.isfinite(make(Standardize)(torch.ones(2, 6, 3, 3)).mean_BDHW).all()


@pytest.mark.parametrize("cls", ALL, ids=[cls.name for cls in ALL])
def test_results_are_float32_under_autocast_and_as_exact_as_without(cls: Any) -> None:
    regularizer = make(cls)
    x = moments(regularizer.channels).bfloat16()
    expected = make(cls)(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent = regularizer(x)
    assert latent.mean_BDHW.dtype == torch.float32
    torch.testing.assert_close(latent.mean_BDHW, expected.mean_BDHW)
    if latent.penalty is not None:
        torch.testing.assert_close(latent.penalty.value, expected.penalty.value)


@pytest.mark.parametrize("cls", ALL, ids=[cls.name for cls in ALL])
def test_no_regularizer_has_parameters(cls: Any) -> None:
    assert list(make(cls).parameters()) == []


def test_the_plugin_lists_every_regularizer() -> None:
    assert {cls.name for cls in ALL} == {"rms_norm", "kl", "unit_norm", "layer_norm", "none", "standardize"}


@pytest.mark.parametrize("dim", [8, 16, 32, 64])
@pytest.mark.parametrize("level", [{"use": "dynamic"}, {"use": "constant", "level": 0.3}, {"use": "interpolate"}])
def test_a_level_of_noise_means_the_same_for_unit_norm_as_for_rms_norm(dim: int, level: dict[str, Any]) -> None:
    x = torch.randn(64, dim, 5, 5, generator=torch.Generator().manual_seed(0))
    noise = NOISES[level["use"]](NOISES[level["use"]].Config(**level))
    ratios = []
    for cls in (RmsNorm, UnitNorm):
        latent = make(cls, dim)(x)
        z = noise.perturb(latent, GeneratorDraws(64, torch.Generator().manual_seed(1)))
        ratios.append(latent.mean_BDHW.square().mean() / (z - latent.mean_BDHW).square().mean())
    decibels = 10 * torch.stack(ratios).log10()
    assert abs(decibels[0] - decibels[1]) < 0.1
