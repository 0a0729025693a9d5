"""What a report measures, against closed forms and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.neighbors import NearestNeighbors

from gaekit.runs.report.measures import (
    find_copies,
    nearest,
    spread,
    unit_vectors,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_neighbours_are_those_of_scikit_learn_however_batches_are_cut() -> None:
    train, query = unit_vectors(noise(101, 6, 8, 8)), unit_vectors(noise(7, 6, 8, 8, seed=1))
    assert train.shape == (101, 6 * 16)
    index = torch.arange(101) + 1000
    batches = [(index[i : i + 13], train[i : i + 13]) for i in range(0, 101, 13)]
    distance, found = nearest(query, batches, 5)
    theirs, places = NearestNeighbors(n_neighbors=5, metric="cosine").fit(train.numpy()).kneighbors(query.numpy())
    assert np.array_equal(found.numpy(), places + 1000)
    assert np.allclose(distance.numpy(), theirs, atol=1e-6)
    assert nearest(query, batches[:1], 50)[1].shape == (7, 13)


def test_vectors_of_maps_smaller_than_the_regions_keep_every_position() -> None:
    assert unit_vectors(noise(3, 2, 3, 3)).shape == (3, 18)


def test_samples_of_the_held_out_distribution_are_no_copies() -> None:
    draws = noise(600, seed=3).abs() + 0.5
    found = find_copies(draws[:300], draws[300:], torch.full((50,), 0.2))
    assert found.copies == ()
    assert found.ratio == pytest.approx(1, abs=0.1)
    theirs = mannwhitneyu(draws[300:].numpy(), draws[:300].numpy()).statistic / (300 * 300)
    assert found.nearer == pytest.approx(theirs)


def test_the_nearest_of_many_samples_is_no_copy_by_chance() -> None:
    named = sum(
        bool(find_copies(*noise(2, 128, 64, seed=s).square().sum(-1), torch.ones(32) * 99).copies) for s in range(50)
    )
    assert named == 0


def test_copies_are_named() -> None:
    held_out = noise(100, seed=4).abs() + 0.5
    samples = torch.tensor([0.9, 0.01, 0.6, 0.04, 0.3])
    reconstructed = torch.linspace(0, 0.1, 101)
    found = find_copies(samples, held_out, reconstructed)
    assert found.bound == pytest.approx(0.095)
    assert found.copies == (1, 3)
    assert find_copies(samples, held_out[:19], reconstructed).bound is None


def test_where_reconstructions_are_poor_a_copy_must_still_be_half_as_far_as_any_held_out_image() -> None:
    held_out = torch.linspace(0.5, 1, 50)
    found = find_copies(torch.tensor([0.25, 0.24, 0.49, 0.7]), held_out, torch.full((50,), 2.0))
    assert found.copies == (1,)


def test_places_are_spread_evenly() -> None:
    assert spread(10, 3) == [0, 3, 6]
    assert spread(2, 5) == [0, 1]
    assert spread(0, 5) == []
