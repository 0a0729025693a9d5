"""Training orders: permutations, epochs without gaps, any batch without history."""

from __future__ import annotations

import numpy as np
import pytest

from gaekit.data.order import TrainingOrder, flipped, permutation, split_mix
from gaekit.errors import PluginError


def test_split_mix_gives_the_published_numbers_of_seed_1234567() -> None:
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert split_mix(1234567, np.arange(5)).tolist() == expected


@pytest.mark.parametrize("n", [1, 2, 7, 1797])
def test_each_epoch_visits_every_item_once_in_an_order_of_its_own(n: int) -> None:
    orders = [permutation(3, epoch, n) for epoch in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(n))
    if n > 5:
        assert not np.array_equal(orders[0], orders[1])
        assert not np.array_equal(orders[0], permutation(4, 0, n))


def test_every_place_in_an_order_is_as_likely_for_every_item() -> None:
    places = np.array([permutation(seed, 0, 5).tolist() for seed in range(4000)])
    counts = np.array([[(places[:, place] == item).sum() for item in range(5)] for place in range(5)])
    chi_square = ((counts - 800) ** 2 / 800).sum()
    assert chi_square < 39.3  # the 0.1 % point of 16 degrees of freedom


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (10, 10), (3, 8), (1, 5), (7, 3)])
def test_batches_are_the_epochs_laid_end_to_end(n: int, batch: int) -> None:
    stream = np.concatenate([permutation(5, epoch, n) for epoch in range(-(-6 * batch // n))])
    order = TrainingOrder(n, batch, 5)
    for step in range(6):
        assert order.batch(step)[0].tolist() == stream[step * batch : (step + 1) * batch].tolist()


def test_a_batch_is_the_same_with_and_without_those_before_it() -> None:
    walked = TrainingOrder(50, 16, 9, flip=True)
    for step in range(12):
        indices, flips = walked.batch(step)
        fresh_indices, fresh_flips = TrainingOrder(50, 16, 9, flip=True).batch(step)
        assert indices.tolist() == fresh_indices.tolist()
        assert flips.tolist() == fresh_flips.tolist()


def test_ranks_cut_the_global_batch() -> None:
    order = TrainingOrder(10, 8, 0, flip=True)
    for step in range(5):
        parts = [TrainingOrder(10, 8, 0, flip=True).batch(step, first, first + 2) for first in range(0, 8, 2)]
        whole = order.batch(step)
        assert np.concatenate([part[0] for part in parts]).tolist() == whole[0].tolist()
        assert np.concatenate([part[1] for part in parts]).tolist() == whole[1].tolist()


def test_a_flip_depends_on_seed_epoch_and_item_and_halves_them() -> None:
    items = np.arange(10000)
    first, second = flipped(0, 0, items), flipped(0, 1, items)
    assert abs(first.mean() - 0.5) < 0.02
    assert abs((first == second).mean() - 0.5) < 0.02
    assert abs((first == flipped(1, 0, items)).mean() - 0.5) < 0.02
    assert flipped(0, 0, items[[77, 3]]).tolist() == first[[77, 3]].tolist()


def test_without_flip_nothing_is_mirrored_and_the_order_stays() -> None:
    plain, mirrored = TrainingOrder(20, 20, 1), TrainingOrder(20, 20, 1, flip=True)
    assert not plain.batch(0)[1].any()
    assert mirrored.batch(0)[1].any()
    assert plain.batch(0)[0].tolist() == mirrored.batch(0)[0].tolist()


def test_the_visits_of_two_epochs_in_one_batch_are_mirrored_by_their_own_epoch() -> None:
    indices, flips = TrainingOrder(64, 128, 2, flip=True).batch(0)
    expected = np.concatenate([flipped(2, 0, indices[:64]), flipped(2, 1, indices[64:])])
    assert flips.tolist() == expected.tolist()


def test_the_last_batches_of_a_long_training_are_found_at_once() -> None:
    indices, _ = TrainingOrder(1000, 256, 0).batch(10**12)
    assert len(set(indices.tolist())) > 200
    assert indices.max() < 1000


@pytest.mark.parametrize(("n", "batch"), [(0, 4), (4, 0)])
def test_an_order_of_nothing_is_refused(n: int, batch: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        TrainingOrder(n, batch, 0)


@pytest.mark.parametrize(("step", "first", "last"), [(-1, 0, 4), (0, 2, 2), (0, 0, 5)])
def test_rows_outside_the_batch_are_refused(step: int, first: int, last: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        TrainingOrder(10, 4, 0).batch(step, first, last)


def test_an_order_of_the_sources_own_is_laid_end_to_end_and_cut_for_ranks() -> None:
    def rotated(seed: int, epoch: int) -> np.ndarray:
        return np.roll(np.arange(7), seed + epoch)

    stream = np.concatenate([rotated(2, epoch) for epoch in range(4)])
    for step in (5, 0, 3):
        indices, _ = TrainingOrder(7, 4, 2, epoch_order=rotated).batch(step)
        assert indices.tolist() == stream[step * 4 : step * 4 + 4].tolist()
        halves = [TrainingOrder(7, 4, 2, epoch_order=rotated).batch(step, *rows)[0] for rows in ((0, 2), (2, 4))]
        assert np.concatenate(halves).tolist() == indices.tolist()


@pytest.mark.parametrize("wrong", [[0, 1, 1], [0, 1], [0, 1, 3], [0, 1, 2, 2]])
def test_an_order_that_visits_an_item_twice_or_never_is_refused(wrong: list[int]) -> None:
    order = TrainingOrder(3, 2, 0, epoch_order=lambda seed, epoch: np.array(wrong))
    with pytest.raises(PluginError, match=r"order\(0, 0\) does not visit each of 3 images once"):
        order.batch(0)
