"""Copies and their absence, against scipy's U and distances between all pairs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Metric, Teacher
from gaekit.api.metrics import nearer_shares
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics.memorisation import Memorisation

NAME, TAIL, AUTHENTICITY = "memorisation_given", "memorisation_given_tail", "authenticity_given"


class Given(Teacher):
    """Six features, which are given to the metric as they are."""

    name = "given"
    feature_dim = pooled_dim = 6

    def forward(self, image_B3RR: Tensor) -> Tensor:
        raise AssertionError("the features are given")


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


TRAINING, HELD_OUT, FRESH = rows(300, 0), rows(100, 1), rows(80, 2)


def metric(**settings: Any) -> Metric:
    registry = Registry()
    for cls in (Memorisation, Given):
        registry.add(cls, Plugin("test", "gaekit", "0", "test"))
    config = Memorisation.Config(use="memorisation", teacher=ComponentConfig(use="given"), **settings)
    return build(Metric, config, registry, image_size=32, classes=())


def judged(fake: Tensor, held_out: Tensor = HELD_OUT, cut: int = 64, **settings: Any) -> Metric:
    made = metric(**settings)
    assert made.held_out
    for take, rows_NF in ((made.reference, TRAINING), (made.reference_held_out, held_out), (made.update, fake)):
        for part in rows_NF.split(cut):
            take(part, torch.zeros(len(part)))
    return made


def test_the_shares_are_those_of_scipys_u_and_of_all_distances() -> None:
    fake = torch.cat([FRESH, TRAINING[:20] + 0.05 * rows(20, 3)])
    made = judged(fake)
    found = made.compute()
    training, held_out, fake_rows = (
        (x / x.norm(dim=1, keepdim=True)).double().numpy() for x in (TRAINING, HELD_OUT, fake)
    )
    distance, others = cdist(fake_rows, training), cdist(held_out, training)
    u = mannwhitneyu(others.min(1), distance.min(1)).statistic
    assert found[NAME] == pytest.approx(u / (100 * 100), abs=1e-12)
    assert found[TAIL] == np.mean(distance.min(1) < np.sort(others.min(1))[4])
    own = cdist(training, training) + np.diag(np.full(300, np.inf))
    assert found[AUTHENTICITY] == np.mean(own.min(1)[distance.argmin(1)] < distance.min(1))
    assert made.protocol()["authenticity_held_out"] == np.mean(own.min(1)[others.argmin(1)] < others.min(1))
    assert 0.05 < found[TAIL] < 0.4


def test_copies_are_nearer_than_all_and_fresh_samples_as_near_as_held_out_images() -> None:
    copies = judged(TRAINING[:50]).compute()
    assert copies == {NAME: 1.0, TAIL: 1.0, AUTHENTICITY: 0.0}
    made = judged(FRESH)
    found, intervals = made.compute(), made.intervals()
    assert intervals[NAME].low < 0.5 < intervals[NAME].high
    assert intervals[TAIL].low < 0.05 < intervals[TAIL].high
    for name, interval in intervals.items():
        assert interval.low <= found[name] <= interval.high
    assert not any(name.startswith(metric().higher) for name in (NAME, TAIL))


def test_of_equal_distances_half_count() -> None:
    shares = nearer_shares(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 1.0, 4.0]))
    assert shares.tolist() == [0.875, 0.5, 0.25]


def test_neither_batches_nor_order_nor_what_was_kept_change_a_share() -> None:
    whole = judged(FRESH).compute()
    assert judged(FRESH.flip(0), HELD_OUT.flip(0), 7).compute() == pytest.approx(whole, rel=1e-12)
    first, second = judged(FRESH), metric()
    second.load_reference(first.reference_state() or {})
    second.load_held_out(first.held_out_state() or {})
    second.update(FRESH, torch.zeros(80))
    assert second.compute() == whole
    protocol = second.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    counts = (protocol["n_judged"], protocol["n_training_judged"], protocol["n_held_out_judged"])
    assert counts == (80, 300, 100)


def test_too_few_held_out_images_are_refused() -> None:
    with pytest.raises(GaekitError, match=r"'memorisation' was given 19 held-out image\(s\); it needs at least 20"):
        judged(FRESH, HELD_OUT[:19]).compute()
