"""Metrics of latents against closed forms, scipy and numpy, and by a decoder that is known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.linalg import sqrtm
from scipy.stats import kurtosis
from torch import Tensor
from torch.nn import functional

from gaekit.api import Encoded, GaekitError, Metric, Perceptual, Teacher, to_pixels
from gaekit.api.metrics import noise_of
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics import gaekit_components

SIDE = 16


class Coarse(Teacher):
    """The image itself, coarsely, squared; its embedding is one number more."""

    name = "coarse"
    feature_dim, pooled_dim = 3, 4

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(image_B3RR, self.grid).square()

    def pooled(self, image_B3RR: Tensor) -> Tensor:
        return functional.pad(image_B3RR.mean((2, 3)), (1, 0))


class Absolute(Perceptual):
    """The mean absolute difference."""

    name = "absolute"

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        return (image_B3RR - other_B3RR).abs().mean((1, 2, 3))


def metric(use: str, **settings: Any) -> Any:
    registry = Registry()
    for cls in (*gaekit_components(), Coarse, Absolute):
        registry.add(cls, Plugin("test", "gaekit", "0", "test"))
    config_type: Any = registry.find("metric", use).Config
    return build(Metric, config_type(use=use, **settings), registry, image_size=SIDE, classes=())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decode(latent_BDHW: Tensor) -> Tensor:
    """The first three channels, as an image."""
    image = functional.interpolate(latent_BDHW[:, :3] / 3, size=(SIDE, SIDE))
    return to_pixels(image).float() / 127.5 - 1


def encoded(latent: Tensor, first: int = 0) -> Encoded:
    places = torch.arange(first, first + len(latent))
    return Encoded(latent, torch.zeros(len(latent)), places, decode(0.9 * latent), decode)


def judged(made: Any, latent: Tensor, cut: int = 1000, reference: Tensor | None = None) -> Any:
    """A metric that has taken in latents, in batches."""
    if made.split is not None:
        for part in (latent if reference is None else reference).split(cut):
            made.reference(part, torch.zeros(len(part)))
    made.ready(torch.device("cpu"))
    for first in range(0, len(latent), cut):
        part = latent[first : first + cut]
        made.update(made.extract_latent(encoded(part, first)), torch.zeros(len(part)))
    return made


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    ca, cb = np.cov(a.T), np.cov(b.T)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


@pytest.mark.parametrize("use", ["spectrum", "effective_rank", "channel_statistics"])
def test_statistics_do_not_depend_on_how_batches_are_cut_and_have_json_protocols(use: str) -> None:
    latent = noise(40, 5, 8, 8) * torch.arange(1, 6).view(5, 1, 1) + 2
    whole, cut = judged(metric(use), latent), judged(metric(use), latent, cut=7)
    assert cut.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert json.loads(json.dumps(whole.protocol(), allow_nan=False))["n"] == 40
    intervals = whole.intervals()
    for name, interval in intervals.items():
        assert interval.low < whole.compute()[name] < interval.high
    assert len(intervals) == (0 if use == "channel_statistics" else 2)
    assert judged(metric(use), latent[:20]).intervals() == {}
    with pytest.raises(GaekitError, match="not finite"):
        judged(metric(use), latent / 0)


def test_white_noise_has_the_share_of_its_frequencies_and_no_slope() -> None:
    made = judged(metric("spectrum", cutoff=0.5), 3 * noise(400, 4, 16, 16) - 5)
    along = np.fft.fftfreq(16, 1 / 16)
    expected = (np.hypot(along[:, None], along[None, :]) <= 4).mean()
    assert made.protocol()["low_of_white_noise"] == expected
    assert made.compute() == pytest.approx({"spectrum_low": expected, "spectrum_slope": 0.0}, abs=0.01)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_noise_shaped_by_a_power_law_has_its_slope(power: float) -> None:
    along = torch.fft.fftfreq(32, 1 / 32)
    exact = (along[:, None].square() + along[None, :].square()).sqrt()
    radius = exact.round().clamp_min(1)
    shaped = torch.fft.ifft2(torch.fft.fft2(noise(200, 3, 32, 32)) * radius ** (-power / 2)).real
    found = judged(metric("spectrum"), shaped * torch.tensor([1.0, 100.0, 1e-3]).view(3, 1, 1)).compute()
    assert found["spectrum_slope"] == pytest.approx(power, abs=0.03)
    law = radius**-power
    assert found["spectrum_low"] == pytest.approx(float(law[exact <= 8].sum() / law.sum()), abs=0.01)


def test_a_map_of_too_few_places_has_no_spectrum() -> None:
    with pytest.raises(GaekitError, match="a latent of 2 x 2 has no spectrum; at least 4 x 4 has"):
        judged(metric("spectrum"), noise(4, 3, 2, 2))


def test_channels_that_are_mixed_from_fewer_have_their_rank() -> None:
    mixed = torch.einsum("ed,ndhw->nehw", torch.linalg.qr(noise(6, 3, seed=1))[0], noise(600, 3, 8, 8)) + 4
    found = judged(metric("effective_rank"), mixed).compute()
    assert found == pytest.approx({"effective_rank": 3.0, "effective_rank_share": 0.5}, rel=1e-3)


def test_statistics_of_channels_are_those_of_numpy_and_scipy() -> None:
    latent = noise(50, 4, 8, 8).double()
    latent = torch.stack([latent[:, 0] * 3 + 1, latent[:, 1].pow(3) - 2, latent[:, 2] * 0.01, latent[:, 3] * 0 + 5], 1)
    rows = latent.movedim(1, -1).reshape(-1, 4).numpy()
    made = judged(metric("channel_statistics"), latent)
    excess = kurtosis(rows[:, :3])
    assert made.compute() == pytest.approx({
        "channel_std_min": 0.0,
        "channel_std_max": rows.std(0).max(),
        "channel_mean_max": 5.0,
        "channel_kurtosis_mean": excess.mean(),
        "channel_kurtosis_max": excess.max(),
        "channels_dead": 0.5,
    }, rel=1e-8)  # fmt: skip
    assert made.protocol()["std"] == pytest.approx(rows.std(0).tolist(), rel=1e-8, abs=1e-7)


CURVE = {"sigmas": [0.0, 0.3], "teacher": {"use": "coarse"}, "perceptual": {"use": "absolute"}, "grid": 4}


def test_a_noise_curve_is_what_its_decoder_makes_of_latents_with_noise() -> None:
    latent = 2 * noise(40, 4, 4, 4)
    made = judged(metric("noise_curve", **CURVE, seed=3), latent)
    numbers, unit = made.compute(), made.protocol()["unit"]
    assert unit == pytest.approx(float(latent.square().mean().sqrt()), rel=1e-5)
    eps = torch.cat([noise_of(torch.tensor([i]), (4, 4, 4), 3, torch.device("cpu")) for i in range(40)])
    assert abs(float(eps.mean())) < 0.1
    assert float(eps.std()) == pytest.approx(1, abs=0.05)
    real, clean, noisy = decode(0.9 * latent), decode(latent), decode(latent + 0.3 * unit * eps)
    for sigma, image in ((0, clean), (0.3, noisy)):
        error = (to_pixels(real).double() - to_pixels(image).double()).square().mean((1, 2, 3))
        psnr = (10 * (255**2 / error).log10()).numpy()
        assert numbers[f"noise_curve_psnr@{sigma}"] == pytest.approx(psnr.mean(), rel=1e-12)
        assert made.per_image()[f"noise_curve_psnr@{sigma}"].tolist() == pytest.approx(psnr.tolist(), rel=1e-12)
        distance = (real - image).abs().mean((1, 2, 3)).double()
        assert numbers[f"noise_curve_absolute@{sigma}"] == pytest.approx(float(distance.mean()), rel=1e-6)
    features = [functional.adaptive_avg_pool2d(i, 4).square().double().mean((2, 3)).numpy() for i in (clean, noisy)]
    assert numbers["noise_curve_frechet_coarse@0.3"] == pytest.approx(by_scipy(*features), rel=1e-6)
    assert len(numbers) == 5
    assert made.intervals().keys() == numbers.keys()
    assert made.intervals()["noise_curve_frechet_coarse@0.3"].method.endswith("40 pairs of images")


def test_noise_is_of_the_image_and_the_seed_whatever_batch_it_is_in() -> None:
    latent = noise(21, 4, 4, 4)
    whole, cut, other = (
        judged(metric("noise_curve", **CURVE, seed=seed), latent, cut=cut) for seed, cut in ((0, 100), (0, 4), (1, 100))
    )
    assert cut.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert other.compute()["noise_curve_psnr@0.3"] != whole.compute()["noise_curve_psnr@0.3"]
    assert other.compute()["noise_curve_psnr@0"] == whole.compute()["noise_curve_psnr@0"]


def test_numbers_on_other_features_of_a_teacher_have_another_name() -> None:
    for use, settings, name in (
        ("noise_curve", CURVE, "noise_curve_frechet_coarse_class_token@0.3"),
        ("interpolation", {"teacher": {"use": "coarse"}}, "interpolation_coarse_class_token"),
        ("ifid", {"teacher": {"use": "coarse"}}, "ifid_coarse_class_token"),
    ):
        made = judged(metric(use, **settings, features="class_token"), noise(40, 4, 4, 4))
        assert name in made.compute()
        assert name in made.intervals()


def test_strengths_that_would_have_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"six digits of a sigma, and 0\.1 comes more than once"):
        metric("noise_curve", sigmas=[0.0, 0.1, 0.1000000001])


def test_another_rank_has_the_unit_by_what_its_owner_took_in() -> None:
    owner, twin = metric("noise_curve"), metric("noise_curve")
    owner.reference(noise(9, 4, 4, 4) * 7, torch.zeros(9))
    twin.load_reference(owner.reference_state())
    seen = encoded(noise(5, 4, 4, 4, seed=1))
    assert torch.equal(twin.extract_latent(seen), owner.extract_latent(seen))
    with pytest.raises(GaekitError, match="was given no training latents"):
        metric("noise_curve").extract_latent(seen)
