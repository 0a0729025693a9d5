"""Precision and recall against torch-fidelity's own result, brute force and sets whose manifolds are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import SINGLE, Tiny, crops, fidelity, make, measure
from scipy.spatial.distance import cdist
from torch import Tensor

from gaekit.api import GaekitError
from gaekit.api.metrics import Features, Subset
from gaekit.testing import check_component
from gaekit_metrics.adm import Adm
from gaekit_metrics.precision_recall import Precision, Recall, share_inside, squared_radii

REAL, FAKE = crops("china"), torch.cat([crops("china")[::4] // 2 * 2, crops("flower")[:30]])


class TinyPrecision(Precision):
    """Precision by a small network."""

    name = "tiny_precision"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


class TinyRecall(Recall):
    """Recall by a small network."""

    name = "tiny_recall"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


class TinyAdm(Adm):
    """All four by a small network."""

    name = "tiny_adm"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Tiny(), **sizes)


def clouds(count: int, width: int = 3, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def inside(rows: Tensor, centres: Tensor, k: int = 3, block: int = 4096) -> float:
    return share_inside(rows, centres, squared_radii(centres, k, block), block)


def drawn(count: int, cut: int, limit: int, seed: int = 0) -> Tensor:
    """Rows that a subset keeps of rows 0, 1, 2, ..."""
    subset = Subset(limit, seed)
    for rows in torch.split(torch.arange(count, dtype=torch.float32)[:, None], cut):
        places = subset.choose(len(rows))
        subset.add(Features(rows, rows, rows).rows(list(places)))
    return subset.rows()[:, 0]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_precision_and_recall_are_torch_fidelitys(k: int) -> None:
    expected = fidelity(FAKE, REAL, prc=True, prc_neighborhood=k)
    ours = {name: measure(make(name, k=k), FAKE, REAL)[name] for name in ("precision", "recall")}
    assert 0.1 < expected["precision"] < 0.9
    assert 0.1 < expected["recall"] < 1
    assert ours == {name: pytest.approx(expected[name], abs=1e-6) for name in ours}


@pytest.mark.parametrize("k", [1, 3])
def test_the_shares_are_those_of_brute_force(k: int) -> None:
    rows, centres = clouds(80, seed=1, shift=0.7), clouds(60)
    radii = np.sort(cdist(centres, centres), 1)[:, k]
    expected = (cdist(rows, centres) <= radii).any(1).mean()
    assert 0.3 < expected < 0.95
    assert inside(rows, centres, k) == expected


def test_no_block_size_changes_the_shares() -> None:
    rows, centres = clouds(40, seed=1, shift=1.2), clouds(30)
    assert 0.3 < inside(rows, centres) < 0.95
    assert {inside(rows, centres, 3, block) for block in (2, 7, 30, 4096)} == {inside(rows, centres)}


def test_equal_sets_are_inside_each_other_distant_ones_outside_and_a_lost_mode_lowers_recall_alone() -> None:
    one, other = clouds(50), clouds(50, shift=1000)
    assert inside(one, one) == 1
    assert (inside(one, other), inside(other, one)) == (0, 0)
    both = torch.cat([one, other])
    assert (inside(one, both), inside(both, one)) == (1, 0.5)


def test_an_image_that_there_are_many_copies_of_is_inside_a_ball_without_extent() -> None:
    """Features like the network's: far from zero, where a distance from squares and products rounds to above zero."""
    image = clouds(1, 2048, shift=7.3)
    copies = torch.cat([image.repeat(5, 1), clouds(40, 2048, seed=1, shift=50)])
    assert squared_radii(copies, 3)[:5].tolist() == [0] * 5
    assert inside(image, copies) == 1
    assert inside(image + 0.01, copies[:5]) == 0


def test_a_subset_keeps_all_rows_up_to_its_limit_and_then_as_many() -> None:
    assert drawn(50, 7, 50).tolist() == list(range(50))
    assert len(set(drawn(1000, 64, 50).tolist())) == 50


def test_a_subset_depends_on_the_seed_and_not_on_the_cut() -> None:
    whole = drawn(1000, 1000, 50)
    assert drawn(1000, 1, 50).tolist() == drawn(1000, 64, 50).tolist() == whole.tolist()
    assert drawn(1000, 64, 50, seed=1).tolist() != whole.tolist()


def test_a_subset_draws_every_row_equally_often() -> None:
    times = torch.zeros(40)
    for seed in range(400):
        times[drawn(40, 16, 10, seed).long()] += 1
    # each row is in with probability 1/4: chi-square of 39 degrees of freedom, 0.1 % to 99.9 %
    chi2 = ((times - 100).square() / (400 * 0.25 * 0.75)).sum() * 39 / 40
    assert 15 < chi2 < 75


@pytest.mark.parametrize("cut", [1, 7])
def test_no_cut_into_batches_changes_a_number(cut: int) -> None:
    settings = {"limit": 40, "reference_limit": 50}
    for name in ("precision", "recall"):
        whole = measure(make(name, **settings), FAKE, REAL)[name]
        assert measure(make(name, **settings), FAKE, REAL, cut)[name] == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize(("fake", "real", "what"), [(3, 60, "3 generated"), (45, 3, "3 real"), (45, 0, "0 real")])
def test_no_more_images_than_neighbours_are_refused(fake: int, real: int, what: str) -> None:
    with pytest.raises(GaekitError, match=rf"'recall' judges {what} image\(s\).*at least 4"):
        measure(make("recall"), FAKE[:fake], REAL[:real])


def test_statistics_alone_are_no_reference_for_manifolds(tmp_path: Path) -> None:
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(12), sigma=np.eye(12))
    for name in ("precision", "recall", "adm"):
        with pytest.raises(GaekitError, match="holds statistics alone; these scores need images"):
            make(name, reference=str(tmp_path / "statistics.npz"))


def test_precision_and_recall_keep_the_promises_of_a_metric() -> None:
    check_component(TinyPrecision)
    check_component(TinyRecall)
    check_component(TinyAdm)


def test_all_numbers_of_one_pass_are_those_of_the_metrics_alone() -> None:
    fake, real = FAKE.repeat(2, 1, 1, 1), REAL
    extractor = Tiny()
    together = measure(make("adm", extractor), fake, real)
    alone = {name: measure(make(name), fake, real)[name] for name in SINGLE}
    assert together == {name: pytest.approx(value, rel=1e-9) for name, value in alone.items()}
    assert extractor.seen == len(fake) + len(real)


def test_one_pass_gives_the_scores_asked_for_and_reads_no_more_than_they_need() -> None:
    made = make("adm", scores=("recall", "inception_score"), suffix="x")
    assert sorted(measure(made, FAKE, REAL)) == ["inception_score_x", "recall_x"]
    assert make("adm", scores=("inception_score",)).split is None
    with pytest.raises(ValueError, match="at least 1 item"):
        make("adm", scores=())


def test_fid_takes_the_statistics_of_an_npz_and_precision_its_images(tmp_path: Path) -> None:
    statistics: dict[str, Any] = {"mu": np.full(12, 9.0), "sigma": np.eye(12)}
    np.savez(tmp_path / "a.npz", arr_0=REAL.permute(0, 2, 3, 1).numpy(), **statistics)
    np.savez(tmp_path / "b.npz", **statistics)
    found = measure(make("adm", reference=str(tmp_path / "a.npz")), FAKE)
    assert found["precision"] == measure(make("precision"), FAKE, REAL)["precision"]
    assert found["fid"] == pytest.approx(measure(make("fid", reference=str(tmp_path / "b.npz")), FAKE)["fid"])
