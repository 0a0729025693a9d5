"""The Fréchet distance against scipy's matrix square root and closed forms; on photos through a tiny teacher."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional

from gaekit.api import ComponentConfig, GaekitError, Metric, Teacher
from gaekit.api.metrics import GroupedMoments, Moments, frechet_distance, frechet_interval
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics import gaekit_components
from gaekit_metrics.frechet import Frechet
from gaekit_teachers.presets import DinoV2


class Edges(Teacher):
    """Six oriented filters of fixed weights, rectified."""

    name = "edges"
    feature_dim = 6

    def __init__(self, config: ComponentConfig, *, grid: int):
        super().__init__(config, grid=grid)
        angle = torch.arange(6) * torch.pi / 6
        y, x = torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5), indexing="ij")
        filters = torch.sin(2 * (x * angle.cos().view(-1, 1, 1) + y * angle.sin().view(-1, 1, 1)))
        self.weight = torch.nn.Parameter(filters[:, None].repeat(1, 3, 1, 1))

    @classmethod
    def external(cls, config: Any) -> str | None:
        return "sha256 of edges"

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(functional.conv2d(image_B3RR, self.weight).relu(), self.grid)


class Summed(Edges):
    """Has a class token, of other width."""

    name = "summed"
    pooled_dim = 4

    def pooled(self, image_B3RR: Tensor) -> Tensor:
        return super().forward(image_B3RR).amax((2, 3))[:, :4]


class Blown(Edges):
    """Gives infinite features."""

    name = "blown"

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return super().forward(image_B3RR) / 0


def metric(teacher: type[Teacher] = Edges, **settings: Any) -> Metric:
    registry = Registry()
    for cls in (*gaekit_components(), Edges, Blown, Summed):
        registry.add(cls, Plugin("test", "gaekit", "0", "test"))
    settings_type: Any = registry.find("metric", "frechet").Config
    config = settings_type(use="frechet", teacher={"use": teacher.name}, **settings)
    return build(Metric, config, registry, image_size=32, classes=())


@cache
def crops(name: str) -> Tensor:
    """60 crops of 32 x 32 of a photo, in [-1, 1]."""
    photo = torch.tensor(load_sample_image(f"{name}.jpg")).permute(2, 0, 1) / 127.5 - 1
    return photo[:, :384, :320].unfold(1, 32, 32).unfold(2, 32, 64).permute(1, 2, 0, 3, 4).reshape(-1, 3, 32, 32)


def distance(real: Tensor, fake: Tensor, cut: int = 64, **settings: Any) -> float:
    made = metric(**settings)
    for batch in real.split(cut):
        made.reference(made.extract(batch), torch.zeros(len(batch), dtype=torch.long))
    for batch in fake.split(cut):
        made.update(made.extract(batch), torch.zeros(len(batch), dtype=torch.long))
    return made.compute()["frechet_edges"]


def moments(rows: np.ndarray, cut: int = 1000) -> Moments:
    made = Moments(rows.shape[1])
    for batch in torch.tensor(rows).split(cut):
        made.add(batch)
    return made


def test_the_distance_is_that_of_scipys_sqrtm_on_well_conditioned_covariances() -> None:
    random = np.random.default_rng(0)
    for width in (3, 24):
        a = random.normal(size=(500, width)) @ random.normal(size=(width, width)) + 2
        b = random.normal(size=(400, width)) @ random.normal(size=(width, width))
        ca, cb = np.cov(a.T), np.cov(b.T)
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
        ma, mb = moments(a), moments(b)
        ours = frechet_distance(ma.mean, ma.covariance, mb.mean, mb.covariance)
        assert ours == pytest.approx(expected, rel=1e-9)


def test_gaussians_with_common_axes_have_the_closed_form() -> None:
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double())[0]
    s, t = torch.tensor([1.0, 2, 3, 0.1, 0]).double(), torch.tensor([2.0, 0.5, 3, 4, 1e-3]).double()
    m, n = torch.ones(5).double(), torch.arange(5).double()
    expected = (m - n).square().sum() + (s - t).square().sum()
    ours = frechet_distance(m, rotation * s**2 @ rotation.T, n, rotation * t**2 @ rotation.T)
    assert ours == pytest.approx(float(expected), rel=1e-12)


def test_singular_covariances_have_the_distance_of_their_rows() -> None:
    """With A = X'X and B = Y'Y of centred rows, tr (A B)^(1/2) is the nuclear norm of X Y': no matrix root at all."""
    random = np.random.default_rng(1)
    x, y = random.normal(size=(20, 100)), random.normal(size=(30, 100)) * 2 + 0.1
    xc, yc = (x - x.mean(0)) / np.sqrt(19), (y - y.mean(0)) / np.sqrt(29)
    spread = (xc**2).sum() + (yc**2).sum() - 2 * np.linalg.norm(xc @ yc.T, "nuc")
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + spread
    mx, my = moments(x), moments(y)
    assert frechet_distance(mx.mean, mx.covariance, my.mean, my.covariance) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(mx.mean, mx.covariance, mx.mean, mx.covariance) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("cut", [1, 7, 300])
def test_streamed_moments_are_the_two_pass_ones_also_far_from_zero(cut: int) -> None:
    rows = np.random.default_rng(2).normal(size=(300, 4)) * [1, 1e-3, 10, 1] + 1e6
    made = moments(rows, cut)
    centred = rows - rows.mean(0)
    assert made.count == 300
    np.testing.assert_allclose(made.mean, rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(made.covariance, centred.T @ centred / 299, rtol=1e-6, atol=1e-9)


def test_the_value_is_the_distance_of_the_teachers_pooled_features() -> None:
    features = []
    for photo in ("china", "flower"):
        filtered = functional.conv2d(crops(photo), Edges(ComponentConfig(use="edges"), grid=1).weight).relu()
        features.append(filtered.detach().mean((2, 3)).double().numpy())
    a, b = features
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    for grid in (1, 4):  # 28 x 28 positions in 4 x 4 equal cells: the mean of means is the mean
        assert distance(crops("china"), crops("flower"), grid=grid) == pytest.approx(expected, rel=1e-4)


def test_no_cut_into_batches_and_no_order_changes_the_value() -> None:
    real, fake = crops("china"), crops("flower")
    shuffled = fake[torch.randperm(len(fake), generator=torch.Generator().manual_seed(0))]
    whole = distance(real, fake)
    assert whole > 1e-2
    assert distance(real, fake, cut=1) == pytest.approx(whole, rel=1e-5)  # the teacher's float32 rounds by batch size
    assert distance(real, shuffled, cut=7) == pytest.approx(whole, rel=1e-5)


def test_images_of_the_same_kind_are_nearer_than_others_and_the_same_ones_at_zero() -> None:
    china, flower = crops("china"), crops("flower")
    assert distance(china, china) == pytest.approx(0, abs=1e-9)
    assert distance(china[::2], china[1::2]) < distance(china, flower) / 5


def test_the_protocol_holds_the_features_their_weights_and_both_counts() -> None:
    made = metric(grid=4, split="validation")
    made.reference(made.extract(crops("china")[:10]), torch.zeros(10))
    made.update(made.extract(crops("flower")[:8]), torch.zeros(8))
    protocol = made.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert protocol["implementation"] == "gaekit frechet 3"
    assert protocol["teacher"] == {"use": "edges"}
    assert protocol["teacher_identity"] == "sha256 of edges"
    assert (protocol["n_reference"], protocol["n"], protocol["feature_dim"]) == (10, 8, 6)
    assert protocol["split"] == made.split == "validation"
    assert "warning" not in protocol


def test_too_few_images_for_a_regular_covariance_are_warned_of() -> None:
    made = metric()
    made.reference(made.extract(crops("china")), torch.zeros(60))
    made.update(made.extract(crops("flower")[:6]), torch.zeros(6))
    assert "singular" in made.protocol()["warning"]
    assert list(made.compute()) == ["frechet_edges"]
    made.update(made.extract(crops("flower")[6:7]), torch.zeros(1))
    assert "warning" not in made.protocol()


@pytest.mark.parametrize(("real", "fake", "what"), [(5, 1, "1 generated"), (1, 5, "1 real"), (5, 0, "0 generated")])
def test_fewer_than_two_images_on_a_side_are_refused(real: int, fake: int, what: str) -> None:
    made = metric()
    made.reference(made.extract(crops("china")[:real]), torch.zeros(real))
    if fake:
        made.update(made.extract(crops("flower")[:fake]), torch.zeros(fake))
    with pytest.raises(GaekitError, match=f"was given {what} image"):
        made.compute()


def test_features_that_are_not_finite_are_refused_by_the_teachers_name() -> None:
    with pytest.raises(GaekitError, match=r"teacher 'blown' .* that are not finite"):
        metric(Blown).extract(crops("china")[:2])


def test_the_teacher_stays_frozen() -> None:
    made: Any = metric()
    assert not made.extractor.teacher.training
    assert not any(p.requires_grad for p in made.extractor.teacher.parameters())


def blurred(name: str) -> Tensor:
    """What an autoencoder might make of the crops."""
    return functional.avg_pool2d(crops(name), 3, 1, 1)


def rows(image: Tensor) -> np.ndarray:
    """Features of images, pooled."""
    return metric().extract(image).numpy()


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    ca, cb = np.cov(a.T), np.cov(b.T)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


def in_parts(cut: int = 64, made: Metric | None = None, **settings: Any) -> Metric:
    """A metric with parts, that is ready for samples."""
    made = made or metric(parts=True, **settings)
    for real, rebuilt in zip(crops("china").split(cut), blurred("china").split(cut), strict=True):
        made.reference(made.extract(real), torch.zeros(len(real)))
        made.reference_reconstruction(made.extract(rebuilt), torch.zeros(len(real)))
    return made


def judged(made: Metric) -> dict[str, float]:
    made.ready(torch.device("cpu"))
    made.update(made.extract(crops("flower")), torch.zeros(60))
    return made.compute()


def test_the_parts_are_scipys_distances_between_images_reconstructions_and_samples() -> None:
    china, rebuilt, flower = rows(crops("china")), rows(blurred("china")), rows(crops("flower"))
    expected = {
        "frechet_edges_val": by_scipy(china, flower),
        "frechet_edges_val_from_reconstructions": by_scipy(rebuilt, flower),
        "frechet_edges_val_reconstructed": by_scipy(china, rebuilt),
    }
    made = in_parts(suffix="val")
    assert judged(made) == pytest.approx(expected, rel=1e-6)
    assert len({round(value, 6) for value in expected.values()}) == 3
    assert made.protocol()["parts"]["n_reconstructions"] == made.protocol()["n_reference"] == 60


def test_each_part_has_an_interval_of_what_it_judges_and_they_are_those_of_rfid_and_fid() -> None:
    made = in_parts()
    numbers = judged(made)
    intervals = made.intervals()
    assert intervals.keys() == numbers.keys()
    assert intervals["frechet_edges_reconstructed"].method.endswith("60 pairs of images")
    real, rebuilt = GroupedMoments(6), GroupedMoments(6)
    real.add(made.extract(crops("china")))
    rebuilt.add(made.extract(blurred("china")))
    value = numbers["frechet_edges_reconstructed"]
    assert intervals["frechet_edges_reconstructed"] == frechet_interval(value, real, rebuilt, "pairs of images")
    for name in ("frechet_edges", "frechet_edges_from_reconstructions"):
        assert intervals[name].method.endswith("60 images")


def test_images_and_reconstructions_that_were_kept_give_the_same_numbers_and_intervals() -> None:
    whole, cut, kept = in_parts(), in_parts(cut=7), metric(parts=True)
    kept.load_reference(whole.reference_state() or {})
    kept.load_reconstruction(whole.reconstruction_state() or {})
    expected = judged(whole)
    assert judged(kept) == expected
    assert kept.intervals() == whole.intervals()
    assert judged(cut) == pytest.approx(expected, rel=1e-5)


def test_reconstructions_of_fewer_than_two_images_are_refused() -> None:
    made = metric(parts=True)
    made.reference(made.extract(crops("china")), torch.zeros(60))
    with pytest.raises(GaekitError, match="was given 0 reconstructed image"):
        made.ready(torch.device("cpu"))


@pytest.mark.parametrize("count", [40, 1024 + 40])
def test_moments_in_groups_are_kept_exactly(count: int) -> None:
    made, kept = GroupedMoments(3), GroupedMoments(3)
    made.add(torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5)
    kept.load(made.state())
    for groups in ((), (3,), (2, 9)):
        for ours, theirs in zip(kept.without(*groups), made.without(*groups), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(kept.plain().covariance, made.covariance)


def test_it_can_be_taken_on_the_class_token_under_a_name_of_its_own() -> None:
    made, photos = metric(Summed, features="class_token"), (crops("china"), crops("flower"))
    made.reference(made.extract(photos[0]), torch.zeros(60))
    made.update(made.extract(photos[1]), torch.zeros(60))
    teacher = Summed(ComponentConfig(use="summed"), grid=7)
    with torch.no_grad():  # 8 bit and back
        a, b = (moments(teacher.pooled(((p + 1) * 127.5).round() / 127.5 - 1).double().numpy()) for p in photos)
    expected = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert made.compute() == {"frechet_summed_class_token": pytest.approx(expected, rel=1e-4)}
    assert made.protocol()["feature_dim"] == 4
    with pytest.raises(GaekitError, match="teacher 'edges' of these settings has no class token"):
        metric(features="class_token")


def test_on_dinov2s_class_token_it_says_what_is_otherwise_than_in_dgm_eval() -> None:
    registry = Registry()
    for cls in (*gaekit_components(), DinoV2):
        registry.add(cls, Plugin("test", "gaekit", "0", "test"))
    teacher = {"use": "dinov2", "size": "small", "weights": "random"}
    config = Frechet.Config(use="frechet", teacher=DinoV2.Config(**teacher), grid=2, features="class_token")
    told = build(Metric, config, registry, image_size=32, classes=()).protocol()["differs_from_dgm_eval"]
    for word in ("small", "28 px", "timm", "another source", "8 bit"):
        assert any(word in difference for difference in told), word
    config = config.model_copy(update={"teacher": DinoV2.Config(**teacher, positions="dinov2")})
    told = build(Metric, config, registry, image_size=28, classes=()).protocol()["differs_from_dgm_eval"]
    assert not any("timm" in difference or "8 bit" in difference for difference in told)
