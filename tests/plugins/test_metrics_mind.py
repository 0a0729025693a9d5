"""MIND against torch-fidelity's program, the best assignment, and itself on other counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import WIDTH, Tiny, crops, make, measure, tiny_features
from scipy.optimize import linear_sum_assignment

from gaekit.api import GaekitError
from gaekit.testing import check_component
from gaekit_metrics.mind import Mind, squared_distances

REAL, FAKE = crops("china"), crops("flower")

THEIRS = [
    (50, {}, 64.2204179763794),
    (60, {}, 59.18776559829712),
    (50, {"projections": 64, "seed": 3}, 60.28537702560425),
    (60, {"projections": 64, "seed": 3}, 60.16690492630005),
]
"""How many generated images, settings, and what mind_features_to_metric of torch-fidelity (commit 5e211a9, after 0.4.0)
gives in float32 for the features of these images."""


class TinyMind(Mind):
    """MIND by a small network, on few directions."""

    name = "tiny_mind"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config.model_copy(update={"projections": 20}), extractor=Tiny(), **sizes)


@pytest.mark.parametrize(("count", "settings", "expected"), THEIRS)
def test_it_is_torch_fidelitys_also_where_images_are_drawn(
    count: int, settings: dict[str, int], expected: float
) -> None:
    assert measure(make("mind", **settings), FAKE[:count], REAL)["mind"] == pytest.approx(expected, rel=1e-5)
    together = measure(make("adm", scores=("mind",), **settings), FAKE[:count], REAL)
    assert together == {"mind": pytest.approx(expected, rel=1e-5)}


def test_it_is_three_times_the_dimensions_times_the_cost_of_the_best_assignment() -> None:
    made = make("mind", projections=5)
    rows, others = (tiny_features(images[:20])[0].double().numpy() for images in (FAKE, REAL))
    random = torch.Generator().manual_seed(2020)
    direction = torch.randn(5, WIDTH, generator=random)
    costs = []
    for one in (direction / direction.norm(dim=1, keepdim=True)).double().numpy():
        cost = (rows @ one)[:, None] - (others @ one)[None, :]
        costs.append((cost[linear_sum_assignment(cost**2)] ** 2).mean())
    assert measure(made, FAKE[:20], REAL[:20])["mind"] == pytest.approx(3 * WIDTH * np.mean(costs), rel=1e-6)


def test_of_unequal_counts_the_distance_is_that_of_as_many_copies_of_each() -> None:
    one, other = (torch.randn(3, n, generator=torch.Generator().manual_seed(n)).double().sort(1)[0] for n in (4, 6))
    copies = squared_distances(one.repeat_interleave(3, 1), other.repeat_interleave(2, 1))
    torch.testing.assert_close(squared_distances(one, other), copies)
    torch.testing.assert_close(squared_distances(other, one), copies)


def test_without_drawing_neither_batches_nor_order_change_it() -> None:
    whole = measure(make("mind", projections=30), FAKE, REAL)["mind"]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for cut, fake in ((1, FAKE), (7, FAKE[order])):
        assert measure(make("mind", projections=30), fake, REAL, cut)["mind"] == pytest.approx(whole, rel=1e-10)
    assert measure(make("mind", projections=30), REAL[order], REAL)["mind"] == pytest.approx(0, abs=1e-9)


def test_its_interval_is_around_it() -> None:
    made = make("mind", projections=30)
    value, interval = measure(made, FAKE[:48], REAL)["mind"], made.intervals()["mind"]
    assert 0.5 * value < interval.low < value < interval.high < 2 * value


@pytest.mark.parametrize(("fake", "real", "what"), [(1, 60, "1 generated"), (50, 0, "0 real")])
def test_fewer_than_two_images_are_refused(fake: int, real: int, what: str) -> None:
    with pytest.raises(GaekitError, match=rf"'mind' was given {what} image"):
        measure(make("mind"), FAKE[:fake], REAL[:real])


def test_it_keeps_the_promises_of_a_metric() -> None:
    check_component(TinyMind)
