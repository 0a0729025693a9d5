"""Student's interval against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gaekit.sweeps.student import mean_of


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(5, 2, n).tolist()
    found = mean_of(values)
    low, high = stats.t.interval(0.95, n - 1, np.mean(values), stats.sem(values))
    assert found.half is not None
    assert (found.value - found.half, found.value + found.half) == pytest.approx((low, high), abs=1e-5)


def test_one_value_has_no_interval_and_equal_ones_have_none_of_width() -> None:
    assert (mean_of([3.0]).value, mean_of([3.0]).half) == (3.0, None)
    assert mean_of([3.0, 3.0]).half == 0
