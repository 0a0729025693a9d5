"""On repeated draws from known distributions, the interval of each metric covers the number's mean about as often as it
says: in 90 to 99 % of 200 trials. The mean is that over many more draws, of the same number of images against the same
real ones; for shares of a classifier and means over images it is that of many more images.

    python -m pytest tests/plugins/test_metrics_intervals.py -m "slow or not slow"
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inception_helpers import CLASSES, SPATIAL, WIDTH, Tiny, make
from torch import Tensor

from gaekit.api import Metric, Teacher
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics import gaekit_components
from gaekit_metrics.cmmd import Cmmd
from gaekit_metrics.frechet import Frechet

TRIALS = 200
REST = SPATIAL + CLASSES
"""What the small network tells besides its features."""
Draw = Callable[[torch.Generator], Metric]
"""A metric that has taken in one draw."""


class Six(Teacher):
    """Of six features, which are given to the metric as they are."""

    name = "six"
    feature_dim = 6

    def forward(self, image_B3RR: Tensor) -> Tensor:
        raise AssertionError("the features are given")


def metric(use: str, classes: int = 0, side: int = 16, **settings: Any) -> Metric:
    registry = Registry()
    for cls in (*gaekit_components(), Six):
        registry.add(cls, Plugin("test", "gaekit", "0", "test"))
    settings_type: Any = registry.find("metric", use).Config
    config = settings_type(use=use, **settings)
    return build(Metric, config, registry, image_size=side, classes=tuple(str(k) for k in range(classes)))


def coverage(draw: Draw, name: str, truth: float | int, share: str = "", trials: int = TRIALS) -> float:
    """In which share of trials the interval covers the truth, or the mean over as many draws."""
    random = torch.Generator().manual_seed(0)
    if isinstance(truth, int):
        truth = statistics.fmean(draw(random).compute()[name] for _ in range(truth))
    covered = 0
    for _ in range(trials):
        made = draw(random)
        value, interval = made.compute()[name], made.intervals()[name]
        assert interval.low <= value <= interval.high
        covered += interval.low <= truth <= interval.high
    print(f"{share or name}: truth {truth:.4f}, covered in {100 * covered / trials:.1f} %")
    return covered / trials


def normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random)


def pairs(random: torch.Generator, count: int, side: int = 16) -> tuple[Tensor, Tensor]:
    """Flat images with noise, more of it in some than in others."""
    level = torch.rand(count, 1, 1, 1, generator=random) - 0.5
    noise = 0.05 * normal(random, count, 1, 1, 1).mul(0.5).exp() * normal(random, count, 3, side, side)
    return level.expand(-1, 3, side, side), level + noise


def means(use: str, count: int, **settings: Any) -> Draw:
    base = metric(use, **settings)
    side = settings.get("side", 16)

    def draw(random: torch.Generator, size: int = count) -> Metric:
        made = copy.deepcopy(base)
        made.update(*pairs(random, size, side))
        return made

    return draw


@pytest.mark.parametrize("count", [12, 100])
def test_of_a_mean_over_images(count: int) -> None:
    truth = means("psnr", 50_000)(torch.Generator().manual_seed(1)).compute()["psnr"]
    assert 0.9 <= coverage(means("psnr", count), "psnr", truth) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "settings"), [("ssim", {}), ("lpips", {"weights": "random", "net": "squeeze", "side": 32})]
)
def test_of_other_means_over_images(use: str, settings: dict[str, Any]) -> None:
    truth = means(use, 5_000, **settings)(torch.Generator().manual_seed(1)).compute()[use]
    assert 0.9 <= coverage(means(use, 25, **settings), use, truth) <= 0.99


def blobs(random: torch.Generator, count: int, width: int, spread: float) -> tuple[Tensor, Tensor]:
    """Three classes around corners of a cube, in [0, 1] where they overlap little."""
    label = torch.randint(3, (count,), generator=random)
    return 0.3 + 0.4 * torch.eye(3, width)[label] + spread * normal(random, count, width), label


@pytest.mark.parametrize(("use", "spread"), [("class_accuracy", 0.25), ("linear_probe", 0.25), ("linear_probe", 0.12)])
def test_of_a_share_that_a_classifier_puts_right(use: str, spread: float) -> None:
    """The classifier is fitted once: the number is about it."""
    shape = (4,) if use == "class_accuracy" else (4, 1, 1)
    settings = {"cross_validate": False} if use == "class_accuracy" else {}
    base, random = metric(use, 3, **settings), torch.Generator().manual_seed(5)
    rows, label = blobs(random, 300, 4, spread)
    base.reference(rows.view(-1, *shape), label)
    rows, label = blobs(random, 30_000, 4, spread)
    fitted = copy.deepcopy(base)
    fitted.update(rows.view(-1, *shape), label)
    name, truth = next(iter(fitted.compute().items()))

    def draw(random: torch.Generator) -> Metric:
        made = copy.deepcopy(base)
        rows, label = blobs(random, 100, 4, spread)
        made.update(rows.view(-1, *shape), label)
        return made

    assert 0.9 <= coverage(draw, name, truth) <= 0.99


def against(base: Metric, width: int, extra: int = 0, *, spread: float, shift: float, count: int) -> Draw:
    """Of generated features against the same 200 real ones, which stand at 0 with spread 1."""
    real = normal(torch.Generator().manual_seed(3), 200, width + extra)
    if base.split is not None:
        base.reference(real, torch.zeros(200))
    base.ready(torch.device("cpu"))

    def draw(random: torch.Generator) -> Metric:
        made = copy.deepcopy(base)
        made.update(spread * normal(random, count, width + extra) + shift, torch.zeros(count))
        return made

    return draw


@pytest.mark.parametrize(("spread", "shift", "count"), [(1.0, 0.0, 100), (0.7, 0.4, 40)])
def test_of_a_frechet_distance(spread: float, shift: float, count: int) -> None:
    draw = against(metric("frechet", teacher={"use": "six"}), 6, spread=spread, shift=shift, count=count)
    assert 0.9 <= coverage(draw, "frechet_six", 500) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "settings", "number"),
    [
        ("noise_curve", {"sigmas": (0.5,)}, "noise_curve_frechet_six@0.5"),
        ("ifid", {}, "ifid_six"),
        ("interpolation", {}, "interpolation_six"),
    ],
)
def test_of_a_distance_to_what_is_decoded_of_other_latents(use: str, settings: dict[str, Any], number: str) -> None:
    base = metric(use, teacher={"use": "six"}, **settings)
    means = [torch.zeros(40, 1)] if use == "noise_curve" else []

    def draw(random: torch.Generator) -> Metric:
        made, real = copy.deepcopy(base), normal(random, 40, 6)
        made.update(torch.cat([*means, real, 0.8 * real + 0.3 * normal(random, 40, 6) + 0.1], 1), torch.zeros(40))
        return made

    assert 0.9 <= coverage(draw, number, 300) <= 0.99


def test_of_a_mean_of_a_noise_curve() -> None:
    base = metric("noise_curve", sigmas=(0.0, 0.5))

    def draw(random: torch.Generator) -> Metric:
        made = copy.deepcopy(base)
        psnr = torch.stack([normal(random, 25) + 30, 5 * torch.rand(25, generator=random) + 20], 1)
        made.update(psnr, torch.zeros(25))
        return made

    for sigma, truth in (("0", 30.0), ("0.5", 22.5)):
        assert 0.9 <= coverage(draw, f"noise_curve_psnr@{sigma}", truth) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "spread", "shift"),
    [
        ("fid", 1.0, 0.0),
        ("fid", 0.6, 0.2),
        ("fid", 0.3, 0.3),
        ("precision", 1.0, 0.0),
        ("precision", 1.1, 0.5),
        ("recall", 1.0, 0.0),
        ("recall", 0.6, 0.2),
    ],
)
@pytest.mark.parametrize("count", [64, 150])
def test_of_numbers_against_real_images(use: str, spread: float, shift: float, count: int) -> None:
    draw = against(make(use, Tiny()), WIDTH, REST, spread=spread, shift=shift, count=count)
    assert 0.9 <= coverage(draw, use, 1000, f"{use} {spread} {shift} {count}") <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "shift", "count"), [(1.0, 0.0, 64), (0.6, 0.2, 64)])
def test_of_a_kernel_distance(spread: float, shift: float, count: int) -> None:
    made = make("kid", Tiny(), subsets=3, subset_size=40)
    draw = against(made, WIDTH, REST, spread=spread, shift=shift, count=count)
    assert 0.9 <= coverage(draw, "kid", 400) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "shift", "count"), [(1.0, 0.0, 64), (0.6, 0.2, 150), (1.0, 0.5, 150)])
def test_of_an_embeddings_discrepancy(spread: float, shift: float, count: int) -> None:
    made = metric("cmmd", teacher={"use": "six"}, features="mean", sigma=1.0)
    draw = against(made, 6, spread=spread, shift=shift, count=count)
    assert 0.9 <= coverage(draw, "cmmd_six_mean", 400) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "shift"), [(1.0, 0.0), (0.5, 0.3)])
@pytest.mark.parametrize("name", ["memorisation_six_mean", "memorisation_six_mean_tail", "authenticity_six_mean"])
def test_of_shares_of_samples_near_to_training_images(name: str, spread: float, shift: float) -> None:
    made = metric("memorisation", teacher={"use": "six"}, features="mean")
    made.reference_held_out(normal(torch.Generator().manual_seed(4), 150, 6), torch.zeros(150))
    draw = against(made, 6, spread=spread, shift=shift, count=100)
    assert 0.9 <= coverage(draw, name, 400) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "shift", "count"), [(1.0, 0.0, 100), (0.7, 0.4, 100)])
def test_of_a_panels_mean_at_least(spread: float, shift: float, count: int) -> None:
    """Ratios may depend on each other in any way: it may cover more."""
    distances = (
        Frechet.Config(use="frechet", teacher={"use": "six"}),
        Cmmd.Config(use="cmmd", teacher={"use": "six"}, features="mean", sigma=1.0),
    )
    made: Any = metric("panel", distances=distances)
    made._widths = [6, 6]  # it would look at an image to know
    for take, rows in ((made.reference, 200), (made.reference_held_out, 150)):
        take(normal(torch.Generator().manual_seed(rows), rows, 12), torch.zeros(rows))
    made.split = None  # its reference is in
    draw = against(made, 12, spread=spread, shift=shift, count=count)
    assert coverage(draw, "panel", 400) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "shift", "count"), [(1.0, 0.0, 64), (0.6, 0.2, 150), (1.0, 0.5, 250)])
def test_of_a_sliced_distance(spread: float, shift: float, count: int) -> None:
    draw = against(make("mind", Tiny(), projections=60), WIDTH, REST, spread=spread, shift=shift, count=count)
    assert 0.9 <= coverage(draw, "mind", 400) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 6.0])
@pytest.mark.parametrize("count", [100, 500])
def test_of_an_inception_score(sharpness: float, count: int) -> None:
    draw = against(make("inception_score", Tiny()), WIDTH, REST, spread=sharpness, shift=0.0, count=count)
    assert 0.9 <= coverage(draw, "inception_score", 1000) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("count", [64, 200])
def test_of_a_distance_between_images_and_their_reconstructions(count: int) -> None:
    def draw(random: torch.Generator) -> Metric:
        made, real = make("rfid", Tiny()), normal(random, count, WIDTH)
        made.update(real, 0.8 * real + 0.3 * normal(random, count, WIDTH) + 0.1)
        return made

    assert 0.9 <= coverage(draw, "rfid", 1000) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("count", [48, 160])
@pytest.mark.parametrize("name", ["spectrum_low", "spectrum_slope", "effective_rank"])
def test_of_what_is_found_in_channels_of_latents(name: str, count: int) -> None:
    """Smooth latents of five channels from three, of some images stronger than of others."""
    mixed = torch.linspace(0.2, 1.4, 15).view(5, 3)

    def draw(random: torch.Generator) -> Metric:
        made = metric("spectrum" if name.startswith("spectrum") else "effective_rank")
        level = normal(random, count, 1, 1, 1).mul(0.4).exp()
        smooth = torch.nn.functional.avg_pool2d(normal(random, count, 3, 8, 8), 3, stride=1, padding=1)
        latent = level * torch.einsum("ed,ndhw->nehw", mixed, smooth) + 0.2 * normal(random, count, 5, 8, 8)
        made.update(latent, torch.zeros(count))
        return made

    assert 0.9 <= coverage(draw, name, 500) <= 0.99
