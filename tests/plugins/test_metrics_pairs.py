"""PSNR and SSIM against closed forms, scikit-image's numbers and scipy's filters, on photos and digits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Metric
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics import gaekit_components

# scikit-image 0.26.0 on the pairs below: peak_signal_noise_ratio(x, y, data_range=255) and
# structural_similarity(x / 255, y / 255, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
# channel_axis=-1).
SKIMAGE = {
    ("digit0", "posterised"): (29.55747864436642, 0.9820967547031358),
    ("digit0", "shifted"): (13.961071882648742, 0.5191288236193015),
    ("digit1", "posterised"): (24.7627677992898, 0.935342687338908),
    ("digit1", "shifted"): (14.13721714477042, 0.51582255750683),
    ("china", "posterised"): (23.05920637549964, 0.9003965833747359),
    ("china", "shifted"): (14.633864726393217, 0.36175576469752024),
    ("flower", "posterised"): (23.25890413036054, 0.7664249342146986),
    ("flower", "shifted"): (23.21976455890427, 0.7509135729575672),
}


def picture(name: str) -> np.ndarray:
    """(R, R, 3) uint8: a crop of a photo, or a digit at 32 px."""
    if name.startswith("digit"):
        digit = np.minimum(load_digits().images[int(name[5:])].astype(int) * 16, 255).astype(np.uint8)
        return np.repeat(np.kron(digit, np.ones((4, 4), np.uint8))[..., None], 3, -1)
    return load_sample_image(f"{name}.jpg")[100:196, 200:296]


def damaged(image: np.ndarray, how: str) -> np.ndarray:
    return image // 32 * 32 if how == "posterised" else np.roll(image, 1, 1)


def tensor(image: np.ndarray) -> Tensor:
    return torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1


def metric(name: str, image_size: int = 32, **settings: Any) -> Metric:
    registry = Registry()
    for cls in gaekit_components():
        registry.add(cls, Plugin("metrics", "gaekit", "0", "gaekit_metrics"))
    config = registry.find("metric", name).Config(use=name, **settings)
    return build(Metric, config, registry, image_size=image_size, classes=())


def value(name: str, real: Tensor, fake: Tensor) -> float:
    made = metric(name, real.shape[-1])
    made.update(real, fake)
    return made.compute()[name]


@pytest.mark.parametrize(("name", "how"), SKIMAGE)
def test_psnr_and_ssim_are_those_of_scikit_image(name: str, how: str) -> None:
    image = picture(name)
    pair = tensor(image), tensor(damaged(image, how))
    # Decoders of JPEG differ by a grey level here and there; the digits are exact.
    exact = name.startswith("digit")
    expected_psnr, expected_ssim = SKIMAGE[name, how]
    assert value("psnr", *pair) == pytest.approx(expected_psnr, abs=1e-9 if exact else 0.05)
    assert value("ssim", *pair) == pytest.approx(expected_ssim, abs=1e-9 if exact else 3e-3)


@pytest.mark.parametrize("name", ["china", "flower"])
def test_ssim_is_wangs_formula_with_scipys_gaussian_window(name: str) -> None:
    x = picture(name).astype(np.float64) / 255
    y = damaged(picture(name), "posterised").astype(np.float64) / 255

    def blur(a: np.ndarray) -> np.ndarray:
        return gaussian_filter(a, (1.5, 1.5, 0), radius=(5, 5, 0))

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    full = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    expected = full[5:-5, 5:-5].mean()
    pair = tensor(picture(name)), tensor(damaged(picture(name), "posterised"))
    assert value("ssim", *pair) == pytest.approx(expected, abs=1e-12)


def test_psnr_of_a_constant_difference_is_its_closed_form() -> None:
    real = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8) / 127.5 - 1
    fake = torch.full((1, 3, 16, 16), 105, dtype=torch.uint8) / 127.5 - 1
    assert value("psnr", real, fake) == pytest.approx(20 * np.log10(255 / 5), abs=1e-12)


def test_psnr_averages_the_decibels_of_images_not_their_errors() -> None:
    real = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8) / 127.5 - 1
    fake = real + torch.tensor([1.0, 50.0]).view(2, 1, 1, 1) / 127.5
    expected = (20 * np.log10(255) + 20 * np.log10(255 / 50)) / 2
    assert value("psnr", real, fake) == pytest.approx(expected, abs=1e-12)


def test_identical_images_count_at_the_cap_and_the_protocol_says_how_many() -> None:
    made = metric("psnr")
    image = torch.cat([tensor(picture("digit0")), tensor(picture("digit1"))])
    other = torch.cat([tensor(picture("digit0")), tensor(damaged(picture("digit1"), "shifted"))])
    made.update(image, other)
    assert made.compute()["psnr"] == pytest.approx((100 + SKIMAGE["digit1", "shifted"][0]) / 2)
    assert made.protocol()["cap_db"] == 100
    assert made.protocol()["capped"] == 1


def test_identical_images_have_an_ssim_of_one() -> None:
    image = tensor(picture("china"))
    assert value("ssim", image, image) == pytest.approx(1, abs=1e-12)


def test_differences_below_a_grey_level_do_not_count() -> None:
    image = tensor(picture("digit0"))
    assert value("psnr", image, image + 0.4 / 127.5) == 100


def test_values_beyond_the_range_are_clamped_as_saving_an_image_does() -> None:
    image = tensor(picture("digit0"))
    white = image == image.max()
    assert value("psnr", image.where(~white, 1.0), image.where(~white, 1.7)) == 100


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_no_cut_into_batches_and_no_order_changes_a_bit(name: str) -> None:
    digits = [picture(f"digit{i}") for i in range(10)]
    real = torch.cat([tensor(d) for d in digits])
    fake = torch.cat([tensor(damaged(d, "shifted")) for d in digits])
    values = set()
    for order, cut in ((range(10), 10), (range(10), 1), (range(9, -1, -1), 3), ([3, 1, 4, 0, 5, 9, 2, 6, 8, 7], 4)):
        made = metric(name)
        index = list(order)
        for start in range(0, 10, cut):
            made.update(real[index[start : start + cut]], fake[index[start : start + cut]])
        values.add(made.compute()[name])
        assert made.protocol()["n"] == 10
    assert len(values) == 1


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_protocols_are_json_and_name_the_implementation(name: str) -> None:
    protocol = metric(name).protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert protocol["implementation"] == f"gaekit {name} 1"


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_no_images_and_pixels_that_are_not_finite_are_errors(name: str) -> None:
    with pytest.raises(GaekitError, match=f"'{name}' was given no pairs of images"):
        metric(name).compute()
    image = tensor(picture("digit0"))
    broken = image.clone()
    broken[0, 0, 3, 3] = float("nan")
    with pytest.raises(GaekitError, match=f"'{name}'.*not finite"):
        metric(name).update(image, broken)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(GaekitError, match=r"11 x 11 pixels and image\.size is 10"):
        metric("ssim", image_size=10)
    image = torch.rand(1, 3, 11, 11, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert value("ssim", image, image) == pytest.approx(1)


def test_metrics_of_pairs_take_no_reference() -> None:
    with pytest.raises(TypeError, match="takes no reference"):
        metric("psnr").reference(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    assert isinstance(metric("psnr").config, ComponentConfig)
