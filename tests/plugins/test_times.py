from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from scipy.special import logit
from torch import Tensor

from gaekit.values import Draws, GeneratorDraws
from gaekit_times import gaekit_components
from gaekit_times.times import LogitNormal, Uniform

GAE = 32 * 16 * 16


def make(cls: Any, dimension: int = GAE, **settings: Any) -> Any:
    return cls(cls.Config(use=cls.name, **settings), dimension=dimension)


def drawn(sampler: Any, count: int = 20_000) -> Tensor:
    times: Tensor = sampler.times(GeneratorDraws(count, torch.Generator().manual_seed(0)))
    assert times.shape == (count,)
    assert times.dtype == torch.float32
    return times


class Extremes(Draws):
    """The ends of what a generator may give."""

    def normal(self, *tail: int) -> Tensor:
        return torch.tensor([-200.0, 0.0, 200.0])

    def uniform(self) -> Tensor:
        return torch.tensor([0.0, 0.5, 1.0])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.6)])
@pytest.mark.parametrize("shift", [1.0, 0.7])
def test_logit_normal_is_scipys_and_the_shift_moves_its_mean(mean: float, std: float, shift: float) -> None:
    times = drawn(make(LogitNormal, mean=mean, std=std, shift=shift)).double()
    expected = stats.norm(loc=mean + math.log(shift), scale=std)  # t' / (1 - t') = s t / (1 - t)
    assert stats.kstest(logit(times.numpy()), expected.cdf).pvalue > 0.01


def test_uniform_is_scipys() -> None:
    assert stats.kstest(drawn(make(Uniform)).numpy(), stats.uniform().cdf).pvalue > 0.01


def test_shifted_uniform_has_the_density_of_the_inverse_shift() -> None:
    times = drawn(make(Uniform, shift=0.4)).double()
    unshifted = times / (0.4 + 0.6 * times)
    assert stats.kstest(unshifted.numpy(), stats.uniform().cdf).pvalue > 0.01
    assert times.mean() < 0.4


@pytest.mark.parametrize(
    ("dimension", "shift"), [(GAE, 0.7071), (4 * 32 * 32, 1.0), (768 * 16 * 16, 1 / 6.9282), (8 * 8 * 8, 2.8284)]
)
def test_the_derived_shift_is_raes_in_our_convention(dimension: int, shift: float) -> None:
    assert make(LogitNormal, dimension, shift="dimension").shift == pytest.approx(shift, abs=1e-4)


@pytest.mark.parametrize("cls", [Uniform, LogitNormal])
@pytest.mark.parametrize("shift", [0.01, 0.4, 1.0, 30.0])
def test_the_ends_stay_in_the_closed_interval(cls: Any, shift: float) -> None:
    times = make(cls, shift=shift).times(Extremes())
    assert times[0] == 0
    assert 0 < times[1] < 1
    assert times[2] == 1


@pytest.mark.parametrize("settings", [{"shift": 0}, {"shift": -1}, {"shift": "dim"}, {"std": 0}, {"mean": math.inf}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(LogitNormal, **settings)


def test_the_plugin_lists_both() -> None:
    assert [cls.name for cls in gaekit_components()] == ["uniform", "logit_normal"]
