"""Learning rates and parameter groups, against torch's own schedulers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gaekit.errors import GaekitError
from gaekit.recipe.schema import Train
from gaekit.train.optim import has_horizon, learning_rate, make_optimizer


def test_cosine_is_torchs() -> None:
    train = Train(steps=50, batch=1, lr=0.1, schedule="cosine", final_lr=0.2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.02)
    for step in range(50):
        assert learning_rate(train, 0.1, step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        scheduler.step()


def test_warmup_rises_linearly_in_steps_or_as_a_fraction() -> None:
    by_steps = Train(steps=100, batch=1, lr=1.0, warmup=10)
    by_fraction = Train(steps=100, batch=1, lr=1.0, warmup=0.1)
    for step in range(12):
        expected = min(1.0, (step + 1) / 10)
        assert learning_rate(by_steps, 1.0, step) == learning_rate(by_fraction, 1.0, step) == pytest.approx(expected)


def test_only_what_looks_ahead_has_a_horizon() -> None:
    assert not has_horizon(Train(steps=5, batch=1, warmup=3))
    assert has_horizon(Train(steps=5, batch=1, warmup=0.5))
    assert has_horizon(Train(steps=5, batch=1, schedule="cosine"))


def test_vectors_do_not_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    groups = make_optimizer(module, Train(steps=1, batch=1, weight_decay=0.5), 0.1, (0.9, 0.95)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.5), (3, 0.0)]


def test_a_module_without_parameters_is_refused_by_name() -> None:
    with pytest.raises(GaekitError, match="thing: has no parameter"):
        make_optimizer(nn.Identity(), Train(steps=1, batch=1), 0.1, (0.9, 0.95), "thing")
