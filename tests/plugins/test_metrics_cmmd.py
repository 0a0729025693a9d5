"""CMMD against sums over all pairs by scipy's distances, on photos through a small teacher."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import crops, measure, tiny_features
from scipy.spatial.distance import cdist
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Metric, Teacher
from gaekit.plugins import Plugin, Registry, build
from gaekit_metrics.cmmd import Cmmd

REAL, FAKE = crops("china"), crops("flower")[:50]


class Small(Teacher):
    """A small network, whose pooled features are its class token."""

    name = "small"
    feature_dim = pooled_dim = 12

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return self.pooled(image_B3RR)[..., None, None].expand(-1, -1, self.grid, self.grid)

    def pooled(self, image_B3RR: Tensor) -> Tensor:
        return tiny_features(((image_B3RR + 1) * 127.5).round().to(torch.uint8))[0]


class Headless(Small):
    """The same without a class token."""

    name = "headless"
    pooled_dim = None  # type: ignore[assignment]


def metric(teacher: str = "small", **settings: Any) -> Metric:
    registry = Registry()
    for cls in (Cmmd, Small, Headless):
        registry.add(cls, Plugin("test", "gaekit", "0", "test"))
    config = Cmmd.Config(use="cmmd", teacher=ComponentConfig(use=teacher), **settings)
    return build(Metric, config, registry, image_size=32, classes=())


def formula(fake: Tensor, real: Tensor, sigma: float) -> float:
    x, y = (tiny_features(images)[0].double().numpy() for images in (fake, real))
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))

    def kernel(a: Any, b: Any) -> float:
        return float(np.exp(-cdist(a, b, "sqeuclidean") / (2 * sigma**2)).mean())

    return 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


@pytest.mark.parametrize("sigma", [10.0, 0.5])
def test_it_is_the_published_estimate_of_the_discrepancy(sigma: float) -> None:
    expected = formula(FAKE, REAL, sigma)
    assert expected > 0.1
    assert measure(metric(sigma=sigma), FAKE, REAL) == {"cmmd_small": pytest.approx(expected, rel=1e-6)}


def test_neither_batches_nor_order_change_it_and_images_have_none_from_themselves() -> None:
    whole = measure(metric(), FAKE, REAL)["cmmd_small"]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for cut, fake in ((1, FAKE), (7, FAKE[order])):
        assert measure(metric(), fake, REAL, cut)["cmmd_small"] == pytest.approx(whole, rel=1e-10)
    assert measure(metric(), REAL, REAL)["cmmd_small"] == pytest.approx(0, abs=1e-9)


def test_its_interval_is_around_it_and_its_protocol_names_teacher_and_kernel() -> None:
    made = metric(suffix="val", split="validation")
    value, interval = measure(made, FAKE, REAL)["cmmd_small_val"], made.intervals()["cmmd_small_val"]
    assert interval.low < value < interval.high
    protocol = made.protocol()
    assert json.loads(json.dumps(protocol, allow_nan=False)) == protocol
    assert protocol["extractor"]["teacher"] == {"use": "small"}
    assert "sigma 10," in protocol["kernel"]
    assert (protocol["n_judged"], protocol["n_reference_judged"], made.split) == (50, 60, "validation")


def test_the_mean_of_the_features_has_another_name() -> None:
    assert measure(metric(features="mean"), FAKE, REAL) == {
        "cmmd_small_mean": pytest.approx(formula(FAKE, REAL, 10.0), rel=1e-6)
    }


def test_a_teacher_without_a_class_token_and_too_few_images_are_refused() -> None:
    with pytest.raises(GaekitError, match="'cmmd': teacher 'headless' of these settings has no class token"):
        metric("headless")
    with pytest.raises(GaekitError, match="'cmmd' was given 1 generated image"):
        measure(metric(), FAKE[:1], REAL)
