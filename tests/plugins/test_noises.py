from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from gaekit.values import Draws, GeneratorDraws, Latent
from gaekit_noises import gaekit_components
from gaekit_noises.noises import Constant, Dynamic, HalfNormal, Interpolate, Uniform

COUNT = 20_000


def make(cls: Any, **settings: Any) -> Any:
    return cls(cls.Config(use=cls.name, **settings))


def draws(count: int = COUNT) -> GeneratorDraws:
    return GeneratorDraws(count, torch.Generator().manual_seed(0))


class Ones(Draws):
    """eps of one everywhere, so that z - mean is the level itself, whatever it was drawn as."""

    def __init__(self, batch: int):
        self.batch, self.source = batch, draws(batch)

    def normal(self, *tail: int) -> Tensor:
        return torch.ones(self.batch, *tail) if tail else self.source.normal()

    def uniform(self) -> Tensor:
        return self.source.uniform()


def levels(noise: Any, count: int = COUNT) -> Tensor:
    """One level an image, read off the perturbed latent; checks that all its numbers share it."""
    z = noise.perturb(Latent(torch.zeros(count, 2, 2, 2)), Ones(count))
    assert z.shape == (count, 2, 2, 2)
    assert torch.equal(z, z[:, :1, :1, :1].expand_as(z))
    level: Tensor = z[:, 0, 0, 0]
    return level


@pytest.mark.parametrize("c", [0.05, 0.1, 0.2])
def test_dynamic_levels_have_rms_c_over_08_and_mean_c(c: float) -> None:
    level = levels(make(Dynamic, sigma=c))
    assert (level >= 0).all()
    assert float(level.square().mean().sqrt()) == pytest.approx(c / 0.8, rel=0.02)
    assert float(level.mean()) == pytest.approx(c, rel=0.02)
    assert stats.kstest(level.numpy(), stats.halfnorm(scale=c / 0.8).cdf).pvalue > 0.01


def test_dynamic_noise_itself_has_rms_c_over_08() -> None:
    z = make(Dynamic, sigma=0.2).perturb(Latent(torch.zeros(COUNT, 4, 2, 2)), draws())
    assert float(z.square().mean().sqrt()) == pytest.approx(0.25, rel=0.02)


def test_half_normal_is_dynamic_by_its_own_scale() -> None:
    assert torch.equal(levels(make(HalfNormal, scale=0.25)), levels(make(Dynamic, sigma=0.2)))


def test_uniform_levels_are_uniform_up_to_the_largest() -> None:
    assert stats.kstest(levels(make(Uniform)).numpy(), stats.uniform(scale=0.8).cdf).pvalue > 0.01


def test_constant_level_is_the_same_for_all() -> None:
    torch.testing.assert_close(levels(make(Constant, level=0.3)), torch.full((COUNT,), 0.3))


def test_constant_level_0_is_the_mean_itself_and_draws_nothing() -> None:
    class Forbidden(Ones):
        def normal(self, *tail: int) -> Tensor:
            raise AssertionError("drawn in vain")

    mean = torch.randn(3, 2, 2, 2)
    assert torch.equal(make(Constant, level=0.0).perturb(Latent(mean, mean.abs()), Forbidden(3)), mean)


@pytest.mark.parametrize("cls", [Constant, Dynamic, Uniform, HalfNormal])
def test_noise_is_scaled_by_the_latents_std_around_its_mean(cls: Any) -> None:
    mean, std = torch.randn(5, 2, 3, 3), torch.rand(5, 2, 3, 3)
    plain = make(cls).perturb(Latent(torch.zeros(5, 2, 3, 3)), draws(5))
    scaled = make(cls).perturb(Latent(mean, std), draws(5))
    torch.testing.assert_close(scaled, mean + std * plain)


def test_level_1_of_constant_samples_kls_posterior() -> None:
    mean, std = torch.full((COUNT, 1, 1, 1), 0.4), torch.full((COUNT, 1, 1, 1), 0.3)
    z = make(Constant).perturb(Latent(mean, std), draws())
    assert stats.kstest(z.flatten().numpy(), stats.norm(0.4, 0.3).cdf).pvalue > 0.01


def test_interpolation_fades_the_latent_as_the_noise_grows() -> None:
    # latent 0, eps 1: z = g * scale;  latent 1, eps 1: z = 1 + g * (scale - 1)
    share = levels(make(Interpolate, max=0.5, scale=3.0)) / 3
    assert stats.kstest(share.numpy(), stats.uniform(scale=0.5).cdf).pvalue > 0.01
    z = make(Interpolate, max=0.5, scale=3.0).perturb(Latent(torch.ones(COUNT, 2, 2, 2), 7.0), Ones(COUNT))
    torch.testing.assert_close(z[:, 0, 0, 0], 1 + 2 * share)


def test_interpolation_is_l_detoks_unless_told() -> None:
    """models/detok.py: g = rand, (1 - g) z + g * gamma * randn, gamma 3."""
    share = levels(make(Interpolate)) / 3
    assert stats.kstest(share.numpy(), stats.uniform().cdf).pvalue > 0.01


def test_gradient_reaches_the_latent_and_its_std() -> None:
    mean, std = torch.zeros(4, 2, 2, 2, requires_grad=True), torch.ones(4, 2, 2, 2, requires_grad=True)
    z = make(Dynamic, sigma=0.2).perturb(Latent(mean, std), draws(4))
    gradients = torch.autograd.grad(z.sum(), (mean, std))
    assert torch.equal(gradients[0], torch.ones_like(mean))
    torch.testing.assert_close(gradients[1], z.detach())


@pytest.mark.parametrize("cls", [Constant, Dynamic, Uniform, HalfNormal, Interpolate])
def test_a_latent_of_half_precision_becomes_float32(cls: Any) -> None:
    assert make(cls).perturb(Latent(torch.zeros(2, 2, 2, 2, dtype=torch.bfloat16)), draws(2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("cls", "settings"),
    [(Dynamic, {"sigma": -0.1}), (Dynamic, {"scale": 1}), (Uniform, {"max": math.nan}), (Interpolate, {"max": 1.1})],
)
def test_settings_out_of_range_are_refused(cls: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(cls, **settings)


def test_the_plugin_lists_every_noise() -> None:
    names = {cls.name for cls in gaekit_components()}
    assert names == {"constant", "dynamic", "uniform", "half_normal", "interpolate"}
