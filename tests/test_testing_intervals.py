"""check_component looks at intervals and at what each image contributes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gaekit.api import Interval
from gaekit.api.metrics import MeanMetric, implementation
from gaekit.testing import check_component


class Error(MeanMetric):
    """Mean absolute error of each image."""

    name = "error"

    def update(self, real_B3RR: Tensor, fake_B3RR: Tensor) -> None:
        self.values += (real_B3RR - fake_B3RR).abs().mean((1, 2, 3)).tolist()

    def protocol(self) -> dict[str, Any]:
        return {"implementation": implementation(self)}


class Outside(Error):
    """Its value lies outside of its interval."""

    def intervals(self) -> dict[str, Interval]:
        return {self.name: Interval(-2.0, -1.0, "95 %, guessed")}


class Backward(Error):
    """From high to low."""

    def intervals(self) -> dict[str, Interval]:
        return {self.name: Interval(2.0, -1.0, "95 %, guessed")}


class Silent(Error):
    """Does not say how."""

    def intervals(self) -> dict[str, Interval]:
        return {self.name: Interval(-1.0, 2.0, "")}


class Pair(Error):
    """No Interval."""

    def intervals(self) -> Any:
        return {self.name: (-1.0, 2.0)}


class Stranger(Error):
    """Of a number that it does not compute."""

    def intervals(self) -> dict[str, Interval]:
        return {"other": Interval(-1.0, 2.0, "95 %, guessed")}


class ByBatch(Error):
    """Its interval counts batches."""

    def update(self, real_B3RR: Tensor, fake_B3RR: Tensor) -> None:
        super().update(real_B3RR, fake_B3RR)
        self.batches = getattr(self, "batches", 0) + 1

    def intervals(self) -> dict[str, Interval]:
        return {self.name: Interval(-self.batches, 2.0, "95 %, guessed")}


class Doubled(Error):
    """What it tells of images is not what its number is a mean of."""

    def per_image(self) -> dict[str, Tensor]:
        return {self.name: 2 * super().per_image()[self.name]}


class Square(Error):
    """More than a number for each image."""

    def per_image(self) -> dict[str, Tensor]:
        return {self.name: torch.zeros(24, 2)}


def test_right_ones_pass() -> None:
    check_component(Error)


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (Outside, "the interval of error holds"),
        (Backward, "error goes from low to high"),
        (Silent, "error says how it was made"),
        (Pair, "error is an Interval"),
        (Stranger, "`intervals` are of numbers of `compute`"),
        (ByBatch, "the interval of error does not depend on how batches are cut"),
        (Doubled, "error is the mean over images of its `per_image`"),
        (Square, r"error has a number for each image, \(N,\)"),
    ],
)
def test_a_broken_promise_is_named(cls: type[Error], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_component(cls)
