"""KID against torch-fidelity's own result, and the discrepancy below it against sums over pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import Tiny, crops, fidelity, make, measure, tiny_features
from torch import Tensor

from gaekit.api import GaekitError
from gaekit.api.metrics import groups_of
from gaekit.testing import check_component
from gaekit_metrics.kid import Kid
from gaekit_metrics.mmd import cubic, gaussian, kernel_sums

REAL, FAKE = crops("china"), crops("flower")[:50]


class TinyKid(Kid):
    """KID by a small network, of small subsets."""

    name = "tiny_kid"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config.model_copy(update={"subsets": 3, "subset_size": 20}), extractor=Tiny(), **sizes)


def rows(images: Tensor) -> Tensor:
    return tiny_features(images)[0].double()


@pytest.mark.parametrize(("subsets", "size", "seed"), [(5, 40, 2020), (3, 50, 7)])
def test_the_mean_and_spread_over_subsets_are_torch_fidelitys(subsets: int, size: int, seed: int) -> None:
    theirs = fidelity(FAKE, REAL, kid=True, kid_subsets=subsets, kid_subset_size=size, rng_seed=seed)
    made = make("kid", subsets=subsets, subset_size=size, seed=seed)
    assert theirs["kernel_inception_distance_mean"] > 0.01
    assert measure(made, FAKE, REAL)["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert made.protocol()["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6, abs=1e-9)
    together = measure(make("adm", scores=("kid",), subsets=subsets, subset_size=size, seed=seed), FAKE, REAL)
    assert together == {"kid": pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)}


def test_of_one_subset_of_all_images_the_gaussian_kernels_is_torch_fidelitys_too() -> None:
    settings = {"kid_subsets": 1, "kid_subset_size": 50, "kid_kernel": "rbf", "kid_kernel_rbf_sigma": 3.0}
    expected = fidelity(FAKE, REAL[:50], kid=True, **settings)["kernel_inception_distance_mean"]
    sums = kernel_sums(rows(FAKE), rows(REAL[:50]), gaussian(3.0), groups_of(0, 50), block=16)
    assert sums.unbiased() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kernel", [cubic, gaussian(2.0)])
def test_without_groups_it_is_that_of_the_others_for_any_block(kernel: Any) -> None:
    fake, real, group = rows(FAKE), rows(REAL), groups_of(0, 50)
    sums = kernel_sums(fake, real, kernel, group, block=7)
    kept = (group != 3) & (group != 8)
    alone = kernel_sums(fake[kept], real, kernel, group[kept])
    assert sums.unbiased(3, 8) == pytest.approx(alone.unbiased(), rel=1e-10)
    assert sums.biased(3, 8) == pytest.approx(alone.biased(), rel=1e-10)
    k, n = (kernel(a, b).numpy() for a, b in ((fake, fake), (fake, real))), 50
    own, cross = k
    expected = own.sum() / n**2 + kernel(real, real).numpy().mean() - 2 * cross.mean()
    assert sums.biased() == pytest.approx(expected, rel=1e-10)
    assert kernel_sums(real, real, kernel, groups_of(0, len(real))).biased() == pytest.approx(0, abs=1e-9)
    assert np.trace(own) > 0


def test_of_images_alike_it_can_be_below_zero_and_its_interval_is_around_it() -> None:
    made = make("kid", subsets=4, subset_size=40)
    value = measure(made, REAL[::2].repeat(2, 1, 1, 1), REAL)["kid"]
    interval = made.intervals()["kid"]
    assert value < 0
    assert interval.low < value < interval.high


@pytest.mark.parametrize("cut", [1, 7])
def test_no_cut_into_batches_changes_it(cut: int) -> None:
    settings = {"subsets": 3, "subset_size": 20, "limit": 30, "reference_limit": 40}
    whole = measure(make("kid", **settings), FAKE, REAL)["kid"]
    assert measure(make("kid", **settings), FAKE, REAL, cut)["kid"] == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize(("fake", "real", "what"), [(39, 60, "39 generated"), (50, 39, "39 real")])
def test_fewer_images_than_a_subset_has_are_refused(fake: int, real: int, what: str) -> None:
    with pytest.raises(GaekitError, match=rf"'kid' draws subsets of subset_size = 40, and was given {what} image"):
        measure(make("kid", subset_size=40), FAKE[:fake], REAL[:real])


def test_subsets_too_small_for_groups_have_no_interval() -> None:
    made = make("kid", subsets=2, subset_size=20)
    measure(made, FAKE, REAL)
    assert made.intervals() == {}


def test_it_keeps_the_promises_of_a_metric() -> None:
    check_component(TinyKid)
    assert torch.equal(groups_of(0, 5), groups_of(0, 50)[:5])
