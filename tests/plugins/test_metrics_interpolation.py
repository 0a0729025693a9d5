"""Points between latents against scipy and scikit-learn, by a decoder that is known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from plugins.test_metrics_latents import by_scipy, decode, encoded, judged, metric, noise
from scipy.spatial import geometric_slerp
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional

from gaekit.api import GaekitError
from gaekit_metrics._between import between
from gaekit_metrics.interpolation import nearest

COARSE: dict[str, Any] = {"teacher": {"use": "coarse"}, "grid": 4}


def features(image: Tensor) -> np.ndarray:
    return functional.adaptive_avg_pool2d(image, 4).square().double().mean((2, 3)).numpy()


def test_the_arc_is_scipys_and_keeps_lengths_between_those_of_its_ends() -> None:
    first, second = (functional.normalize(noise(5, 48, seed=s).double(), dim=1) for s in (0, 1))
    found = between(first.view(5, 3, 4, 4), second.view(5, 3, 4, 4), 0.3, "slerp").flatten(1)
    for row, a, b in zip(found.numpy(), first.numpy(), second.numpy(), strict=True):
        assert row == pytest.approx(geometric_slerp(a, b, [0.3])[0], abs=1e-12)
    assert torch.equal(between(first[:, :, None, None], first[:, :, None, None], 0.5, "slerp").flatten(1), first)
    half = between(torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4), 0.5, "mask")
    assert half[0, 0, :, 0].tolist() == [1, 1, 0, 0]
    assert torch.equal(between(torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4), 0.25, "linear"), half * 0 + 0.25)


@pytest.mark.parametrize("by", ["cosine", "euclidean"])
def test_neighbours_are_those_of_scikit_learn(by: str) -> None:
    rows, query = noise(5000, 7).double() + 0.3, noise(11, 7, seed=1).double()
    found = nearest(query, rows, 6, cosine=by == "cosine")
    theirs = NearestNeighbors(n_neighbors=6, metric=by).fit(rows.numpy()).kneighbors(query.numpy())[1]
    assert np.array_equal(found.numpy(), theirs)


@pytest.mark.parametrize(("way", "by"), [("slerp", "cosine"), ("linear", "euclidean")])
def test_ifid_with_the_nearest_is_the_distance_of_what_lies_between(way: str, by: str) -> None:
    train, latent = noise(60, 4, 4, 4), noise(40, 4, 4, 4, seed=1)
    made = judged(metric("ifid", neighbours=1, interpolation=way, **COARSE), latent, cut=7, reference=train)
    places = NearestNeighbors(n_neighbors=1, metric=by).fit(train.flatten(1)).kneighbors(latent.flatten(1))[1][:, 0]
    middle = between(latent, train[places], 0.5, "slerp" if way == "slerp" else "linear")
    expected = by_scipy(features(decode(0.9 * latent)), features(decode(middle)))
    assert made.compute() == {"ifid_coarse": pytest.approx(expected, rel=1e-6)}
    assert made.intervals()["ifid_coarse"].method.endswith("40 pairs of images")
    protocol = json.loads(json.dumps(made.protocol(), allow_nan=False))
    assert protocol["nearest_by"] == ("cosine" if way == "slerp" else "squared distance")
    assert protocol["among"] == {"split": "train", "n": 60, "limit": 50_000, "seed": 0}


def test_one_of_the_nearest_is_drawn_the_likelier_the_nearer_it_is() -> None:
    own = noise(1, 6)
    others = torch.cat([own + 0.1, own * 1.2 + 0.7, own - 1.0, -own])
    made = metric("ifid", neighbours=3, interpolation="linear", **COARSE)
    drawn = made.others(own.expand(4000, -1), torch.arange(4000), others)
    error = (others - own).square().mean(1).double()
    order = error.argsort()[:3]
    expected = torch.softmax(-error[order], 0)
    shares = torch.bincount(drawn, minlength=4)[order] / 4000
    assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.03)
    assert torch.equal(made.others(own.expand(5, -1), torch.arange(20, 25), others), drawn[20:25])


def test_interpolation_pairs_images_by_the_seed_and_none_with_itself() -> None:
    latent = noise(40, 4, 4, 4)
    made = metric("interpolation", **COARSE)
    judged(made, latent)
    pairs = made.others(latent.flatten(1), torch.arange(40), latent.flatten(1))
    assert not (pairs == torch.arange(40)).any()
    assert len(set(pairs.tolist())) > 15
    middle = (latent + latent[pairs]) / 2
    expected = by_scipy(features(decode(0.9 * latent)), features(decode(middle)))
    assert made.compute() == {"interpolation_coarse": pytest.approx(expected, rel=1e-6)}
    assert judged(metric("interpolation", **COARSE), latent, cut=9).compute() == pytest.approx(made.compute(), rel=1e-9)
    other = judged(metric("interpolation", **COARSE, seed=1), latent).compute()
    assert other["interpolation_coarse"] != pytest.approx(made.compute()["interpolation_coarse"], rel=1e-3)
    alone = judged(metric("interpolation", **COARSE, share=0, suffix="ends"), latent).compute()
    ends = by_scipy(features(decode(0.9 * latent)), features(decode(latent)))
    assert alone == {"interpolation_coarse_ends": pytest.approx(ends, rel=1e-6)}


def test_others_are_at_most_the_limit_and_another_rank_has_the_same() -> None:
    owner, twin = (metric("ifid", limit=20, **COARSE) for _ in range(2))
    for part in noise(50, 4, 4, 4).split(8):
        owner.reference(part, torch.zeros(len(part)))
    state = owner.reference_state()
    assert len(state["others"]) == 20
    assert int(state["seen"]) == 50
    twin.load_reference(state)
    seen = encoded(noise(5, 4, 4, 4, seed=1))
    assert torch.equal(twin.extract_latent(seen), owner.extract_latent(seen))


def test_too_few_others_and_values_that_are_not_finite_are_refused() -> None:
    made = metric("ifid", **COARSE)
    made.reference(noise(1, 4, 4, 4), torch.zeros(1))
    with pytest.raises(GaekitError, match=r"metric 'ifid' was given 1 latent\(s\); it needs 2 at least"):
        made.reference_state()
    with pytest.raises(GaekitError, match="not finite"):
        made.reference(noise(1, 4, 4, 4) / 0, torch.zeros(1))
