"""What intervals are made of, against scipy's and against the same thing computed at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gaekit.api.metrics import (
    GROUPS,
    GroupedMoments,
    Moments,
    frechet_distance,
    frechet_interval,
    groups_of,
    half_splits,
    jackknife_interval,
    mean_interval,
    parts_interval,
    share_interval,
    student_t,
)


def rows(count: int, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 7


@pytest.mark.parametrize("freedom", [*range(1, 30), 99, 5000])
def test_the_quantile_is_students(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-5)


def test_the_interval_of_a_mean_is_students() -> None:
    values = rows(40).flatten().tolist()
    found = mean_interval(values)
    wanted = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found is not None
    assert (found.low, found.high) == pytest.approx(wanted)
    assert mean_interval(values[::-1]) == found
    assert mean_interval(values[:9]) is None


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (20, 20), (7, 31), (495, 500)])
def test_the_interval_of_a_share_is_wilsons(hits: int, count: int) -> None:
    wanted = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    found = share_interval(hits, count)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.low <= hits / count <= found.high


def test_the_interval_of_parts_is_students_over_them() -> None:
    values = rows(10).flatten().tolist()
    found = parts_interval(float(np.mean(values)), values)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 49, np.mean(values), stats.sem(values)))
    assert parts_interval(1.0, [1.0]) is None


def test_the_jackknife_of_a_mean_over_groups_of_one_is_students() -> None:
    values = rows(16, 1).flatten()
    without = [float((values.sum() - value) / 15) for value in values]
    pairs = [float((values.sum() - values[i] - values[i + 1]) / 14) for i in range(0, 16, 2)]
    found = jackknife_interval(float(values.mean()), without, pairs, "16 images")
    wanted = stats.t.interval(0.95, 15, float(values.mean()), stats.sem(values.numpy()))
    assert (found.low, found.high) == pytest.approx(wanted)


def test_groups_have_the_same_size_and_do_not_depend_on_where_a_series_is_cut() -> None:
    whole = groups_of(0, 100)
    assert whole.bincount(minlength=GROUPS).tolist() != [0] * GROUPS
    assert all(sorted(block.tolist()) == list(range(GROUPS)) for block in whole[: 6 * GROUPS].view(-1, GROUPS))
    assert torch.equal(torch.cat([groups_of(0, 7), groups_of(7, 33), groups_of(33, 100)]), whole)
    assert not torch.equal(whole[:GROUPS], whole[GROUPS : 2 * GROUPS])


def test_splits_are_halves_and_orthogonal() -> None:
    sign = half_splits().double() * 2 - 1
    assert torch.equal(sign.sum(1), torch.zeros(GROUPS - 1, dtype=torch.float64))
    assert torch.equal(sign @ sign.T, GROUPS * torch.eye(GROUPS - 1, dtype=torch.float64))


def test_an_interval_takes_in_once_what_waits_for_a_whole_block(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = GroupedMoments(5), GroupedMoments(5)
    for moments in (real, fake):
        moments.add(rows(1100))
    taken: list[int] = []
    before = Moments._take
    monkeypatch.setattr(Moments, "_take", lambda self, row_BN: (taken.append(len(row_BN)), before(self, row_BN))[1])
    assert frechet_interval(1.0, real, fake, "pairs") is not None
    assert taken == [1100 - 1024] * 2


@pytest.mark.parametrize("count", [40, 1024, 1500])
@pytest.mark.parametrize("cut", [1500, 37])
def test_moments_without_a_group_are_those_of_the_other_rows(count: int, cut: int) -> None:
    given, group = rows(count), groups_of(0, count)
    moments, plain = GroupedMoments(5), Moments(5)
    for batch in torch.split(given, cut):
        moments.add(batch)
        plain.add(batch)
    assert torch.equal(moments.mean, plain.mean)
    assert torch.equal(moments.covariance, plain.covariance)
    for left_out in (*((number,) for number in range(GROUPS)), (2, 3), (15, 0)):
        mean, covariance = moments.without(*left_out)
        rest = given[~torch.isin(group, torch.tensor(left_out))]
        torch.testing.assert_close(mean, rest.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(covariance, rest.T.cov(), rtol=1e-10, atol=1e-12)


def test_a_distance_of_few_images_has_no_interval_and_one_of_more_holds_it() -> None:
    real = (rows(500, seed=1).mean(0), rows(500, seed=1).T.cov())
    for count in (31, 32):
        moments = GroupedMoments(5)
        moments.add(rows(count))
        value = frechet_distance(*real, moments.mean, moments.covariance)
        found = frechet_interval(value, real, moments, "images")
        assert (found is None) == (count == 31)
    assert found is not None
    assert 0 <= found.low < value < found.high
    without = [frechet_distance(*real, *moments.without(group)) for group in range(GROUPS)]
    pairs = [frechet_distance(*real, *moments.without(group, group + 1)) for group in range(0, GROUPS, 2)]
    wanted = jackknife_interval(value, without, pairs, "32 images")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-6)


def test_the_jackknife_of_a_square_is_corrected_for_what_pairs_make_together() -> None:
    """The square of a mean of 0 has variance 2 s^4 / n^2, of which the plain jackknife makes twice as much."""
    found = dict.fromkeys(("plain", "corrected"), 0.0)
    for seed in range(300):
        values = torch.randn(16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        square = lambda kept: float(kept.mean() ** 2)  # noqa: E731
        without = [square(values[torch.arange(16) != i]) for i in range(16)]
        pairs = [square(torch.cat([values[:i], values[i + 2 :]])) for i in range(0, 16, 2)]
        for name, given in (("plain", []), ("corrected", pairs)):
            interval = jackknife_interval(square(values), without, given, "16 images")
            found[name] += ((interval.high - square(values)) / student_t(15)) ** 2 / 300
    assert found["plain"] == pytest.approx(2 * 2 / 16**2, rel=0.25)
    assert 2 / 16**2 < found["corrected"] < 0.85 * found["plain"]
