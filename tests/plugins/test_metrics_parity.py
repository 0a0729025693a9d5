"""The numbers of the field's own programs on two fixed sets of real images, and what may not change them.

The features are the same on both sides, so that what is compared is what is made of them: a network's rounding would
hide the rest. With Inception itself, of random weights, beside a small network:

    python -m pytest tests/plugins/test_metrics_parity.py -m "slow or not slow"
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from inception_helpers import SINGLE, Tiny, crops, fidelity, make, measure
from torch import Tensor

from gaekit_metrics.inception import Inception

REAL, FAKE = crops("china"), torch.cat([crops("china")[::4] // 2 * 2, crops("flower")[:45]])
DGM_EVAL = 24.609764827951828
"""compute_efficient_FD_with_reps of dgm-eval (commit 74c79f7, scipy 1.17.1) on the features of all crops of both."""
THEIRS = {
    "fid": "frechet_inception_distance",
    "sfid": "frechet_inception_distance",
    "inception_score": "inception_score_mean",
    "precision": "precision",
    "recall": "recall",
}


def numbers(
    extractor: Any, fake: Tensor, real: Tensor, cut: int = 64, names: tuple[str, ...] = SINGLE
) -> dict[str, float]:
    return measure(make("adm", extractor, scores=names), fake, real, cut)


def test_all_numbers_are_torch_fidelitys() -> None:
    theirs = fidelity(FAKE, REAL, fid=True, isc=True, prc=True)
    spatial = fidelity(FAKE, REAL, fid=True, feature_layer_fid="spatial")
    ours = numbers(Tiny(), FAKE, REAL)
    assert min(ours.values()) > 0.1
    for name, theirs_name in THEIRS.items():
        expected = (spatial if name == "sfid" else theirs)[theirs_name]
        assert ours[name] == pytest.approx(expected, rel=1e-6), name


def test_the_distance_is_dgm_evals() -> None:
    ours = measure(make("fid"), crops("flower"), crops("china"))["fid"]
    assert ours == pytest.approx(DGM_EVAL, rel=1e-6)


@pytest.mark.parametrize("cut", [1, 7])
def test_no_batch_changes_a_number(cut: int) -> None:
    whole, parted = numbers(Tiny(), FAKE, REAL), numbers(Tiny(), FAKE, REAL, cut)
    assert parted == {name: pytest.approx(value, rel=1e-10) for name, value in whole.items()}


def test_no_order_changes_a_number_for_which_nothing_is_drawn() -> None:
    random = torch.Generator().manual_seed(0)
    fake, real = (images[torch.randperm(len(images), generator=random)] for images in (FAKE, REAL))
    names = ("fid", "sfid", "precision", "recall")
    whole, shuffled = (numbers(Tiny(), *images, names=names) for images in ((FAKE, REAL), (fake, real)))
    assert shuffled == {name: pytest.approx(value, rel=1e-10) for name, value in whole.items()}


def test_images_have_no_distance_from_themselves() -> None:
    found = numbers(Tiny(), FAKE, FAKE)
    assert (found["fid"], found["sfid"]) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert (found["precision"], found["recall"]) == (1, 1)


@pytest.mark.slow
def test_inceptions_numbers_depend_on_no_batch_and_no_order() -> None:
    network, fake = Inception("random", 0, "test", spatial=True), FAKE[:20]
    whole = network(fake).joined()
    for cut in (1, 7):
        assert torch.equal(torch.cat([network(part).joined() for part in fake.split(cut)]), whole)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(fake[order]).joined(), whole[order])
    assert numbers(network, fake, fake, names=("fid",)) == {"fid": pytest.approx(0, abs=1e-6)}
