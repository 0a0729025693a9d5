"""The Inception Score against torch-fidelity's own result and closed forms."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import Tiny, crops, fidelity, make, measure
from torch import Tensor

from gaekit.api import GaekitError
from gaekit.api.metrics import Features
from gaekit.testing import check_component
from gaekit_metrics.inception_score import InceptionScore, inception_scores

FAKE = torch.cat([crops("flower"), crops("china")])[:117]


class TinyScore(InceptionScore):
    """The score by a small network."""

    name = "tiny_score"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


class Certain(Tiny):
    """Sees a class in the first pixel, and is sure of it."""

    spatial = 0

    def __call__(self, pixel_B3RR: Tensor) -> Features:
        logit_BK = torch.nn.functional.one_hot(pixel_B3RR[:, 0, 0, 0].long(), 5) * 1e4
        nothing = torch.zeros(len(pixel_B3RR), 0)
        return Features(torch.zeros(len(pixel_B3RR), 12), logit_BK.float(), nothing)


def of_classes(labels: list[int]) -> Tensor:
    return torch.tensor(labels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)


@pytest.mark.parametrize(("splits", "seed"), [(10, 2020), (4, 3)])
def test_the_score_is_torch_fidelitys_also_where_the_splits_are_uneven(splits: int, seed: int) -> None:
    expected = fidelity(FAKE, FAKE, isc=True, isc_splits=splits, rng_seed=seed)
    made = make("inception_score", splits=splits, seed=seed)
    assert expected["inception_score_mean"] > 1.01
    assert measure(made, FAKE)["inception_score"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert made.protocol()["inception_score_std"] == pytest.approx(expected["inception_score_std"], rel=1e-3)


def test_classes_seen_surely_and_equally_often_count_and_nothing_seen_counts_one() -> None:
    sure = torch.eye(6).repeat(10, 1) * 1e4
    assert inception_scores(sure, 10) == pytest.approx([6.0] * 10, rel=1e-12)
    assert inception_scores(torch.full((60, 6), 3.0), 10) == pytest.approx([1.0] * 10, rel=1e-12)


def test_the_formula_is_the_exponential_of_the_mutual_information() -> None:
    """KL(p(y|x) || p(y)) averaged over x is H(y) - H(y|x), which is computed here, in entropies."""
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double() * 2
    p = np.exp(logits.numpy())
    p /= p.sum(1, keepdims=True)
    marginal = p.mean(0)
    information = -(marginal * np.log(marginal)).sum() + (p * np.log(p)).sum(1).mean()
    assert inception_scores(logits, 1) == pytest.approx([np.exp(information)], rel=1e-12)


def test_samples_in_the_order_of_their_classes_are_shuffled() -> None:
    in_order = of_classes([label for label in range(5) for _ in range(40)])
    made = make("inception_score", Certain())
    assert 4 < measure(made, in_order)["inception_score"] <= 5  # in order, every split has one class: 1
    assert made.protocol()["shuffle_seed"] == 2020
    other = measure(make("inception_score", Certain(), seed=1), in_order)["inception_score"]
    assert other != measure(make("inception_score", Certain()), in_order)["inception_score"]


@pytest.mark.parametrize("cut", [1, 7])
def test_no_cut_into_batches_changes_the_score(cut: int) -> None:
    whole = measure(make("inception_score"), FAKE)["inception_score"]
    assert measure(make("inception_score"), FAKE, cut=cut)["inception_score"] == pytest.approx(whole, rel=1e-6)


def test_it_asks_for_no_real_images_and_says_how_it_was_computed() -> None:
    made = make("inception_score")
    assert made.split is None
    with pytest.raises(TypeError, match="takes no reference"):
        made.reference(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    assert made.protocol()["inception_score_std"] is None
    measure(made, FAKE)
    protocol = made.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert (protocol["splits"], protocol["n"], protocol["reference"]) == (10, 117, None)


def test_fewer_images_than_splits_are_refused() -> None:
    with pytest.raises(GaekitError, match=r"9 generated image\(s\) cannot be parted in 10 splits"):
        measure(make("inception_score"), FAKE[:9])
    with pytest.raises(GaekitError, match="0 generated"):
        make("inception_score").compute()
    assert measure(make("inception_score"), FAKE[:10])["inception_score"] == pytest.approx(1)


def test_the_score_keeps_the_promises_of_a_metric() -> None:
    check_component(TinyScore)
