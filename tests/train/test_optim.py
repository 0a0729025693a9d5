"""Learning rates and parameter groups, against torch's own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gaekit.errors import GaekitError
from gaekit.recipe.schema import Adversary, Train
from gaekit.train.optim import has_horizon, learning_rate, make_optimizer


def test_cosine_is_torchs() -> None:
    train = Train(steps=50, batch=1, lr=0.1, schedule="cosine", final_lr=0.2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.02)
    for step in range(50):
        assert learning_rate(train, step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warmup_rises_linearly_in_steps_or_as_a_fraction() -> None:
    by_steps = Train(steps=100, batch=1, lr=1.0, warmup=10)
    by_fraction = Train(steps=100, batch=1, lr=1.0, warmup=0.1)
    for step in range(12):
        expected = min(1.0, (step + 1) / 10)
        assert learning_rate(by_steps, step) == learning_rate(by_fraction, step) == pytest.approx(expected)


def test_linear_is_constant_until_its_start_then_a_line_that_ends_beyond_the_training() -> None:
    """RAE's: 2e-4 until step 40, a line to 2e-5 at step 800, of which 80 steps are trained; a second training meets its
    end and stays there."""
    fall = {"batch": 1, "lr": 2e-4, "schedule": "linear", "final_lr": 0.1, "decay_start": 40, "decay_end": 800}
    train = Train(steps=80, **fall)
    expected = {0: 2e-4, 39: 2e-4, 40: 2e-4, 41: 2e-4 - 1.8e-4 / 760, 79: 2e-4 - 1.8e-4 * 39 / 760}
    assert {step: learning_rate(train, step) for step in expected} == pytest.approx(expected)
    whole = Train(steps=900, **fall)
    assert [learning_rate(whole, step) for step in (420, 799, 800, 899)] == pytest.approx(
        [1.1e-4, 2e-5 + 1.8e-4 / 760, 2e-5, 2e-5]
    )
    assert [learning_rate(whole, step) for step in range(80)] == [learning_rate(train, step) for step in range(80)]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_fall_begins_after_the_warm_up_and_ends_with_the_training_unless_told(schedule: Any) -> None:
    train = Train(steps=10, batch=1, lr=1.0, schedule=schedule, warmup=2, decay_start=0.1, final_lr=0.5)
    rates = [learning_rate(train, step) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.75)
    assert rates[10] == 0.5
    assert sorted(rates[2:], reverse=True) == rates[2:]
    torch_line = torch.optim.lr_scheduler.LinearLR(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 1.0, 0.5, total_iters=8
    )
    for rate in rates[2:] if schedule == "linear" else ():
        assert rate == pytest.approx(torch_line.get_last_lr()[0])
        torch_line.optimizer.step()
        torch_line.step()


def test_only_what_looks_ahead_has_a_horizon() -> None:
    assert not has_horizon(Train(steps=5, batch=1, warmup=3))
    assert has_horizon(Train(steps=5, batch=1, warmup=0.5))
    assert has_horizon(Train(steps=5, batch=1, schedule="cosine"))
    assert has_horizon(Train(steps=5, batch=1, schedule="linear", decay_start=2))
    assert has_horizon(Train(steps=5, batch=1, schedule="linear", decay_start=0.5, decay_end=9))
    assert has_horizon(Train(steps=5, batch=1, schedule="linear", decay_end=2.0))
    assert not has_horizon(Train(steps=5, batch=1, schedule="linear", decay_start=2, decay_end=9))


@pytest.mark.parametrize("wrong", [{"ema": 1.0}, {"betas": (1.0, 0.9)}, {"betas": (0.9, 1.0)}])
def test_an_average_that_never_moves_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="less than 1"):
        Train(steps=1, batch=1, **wrong)
    if "betas" in wrong:
        with pytest.raises(ValidationError, match="less than 1"):
            Adversary(**wrong)


def test_the_discriminator_trains_as_published_unless_told() -> None:
    train = Train(steps=5, batch=2, lr=1e-3, weight_decay=0.05, clip=1.0, ema=0.9, betas=(0.9, 0.95), schedule="cosine")
    own = Adversary().beside(train)
    assert (own.lr, own.betas, own.weight_decay, own.clip, own.ema) == (1e-3, (0.5, 0.9), 0.0, None, None)
    assert (own.steps, own.batch, own.schedule) == (5, 2, "cosine")
    told = Adversary(lr=1e-5, betas=(0.1, 0.2), weight_decay=0.3, clip=4.0).beside(train)
    assert (told.lr, told.betas, told.weight_decay, told.clip) == (1e-5, (0.1, 0.2), 0.3, 4.0)


def test_vectors_do_not_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    groups = make_optimizer(module, Train(steps=1, batch=1, weight_decay=0.5)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.5), (3, 0.0)]


def test_a_module_without_parameters_is_refused_by_name() -> None:
    with pytest.raises(GaekitError, match="thing: has no parameter"):
        make_optimizer(nn.Identity(), Train(steps=1, batch=1), "thing")
