"""scikit-learn's digits: small, real, and in the package, so that a first run needs no download."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gaekit.api import ComponentConfig, Dataset, require

if TYPE_CHECKING:
    from PIL.Image import Image


class DigitScans:
    """Some of the scans: their numbers in scikit-learn's order, pixels (N, 8, 8) uint8, and labels (N,)."""

    def __init__(self, numbers: NDArray[np.int64], pixels: NDArray[np.uint8], labels: NDArray[np.int64]):
        self.numbers, self.pixels, self.labels = numbers, pixels, labels

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image

        return Image.fromarray(self.pixels[index]).convert("RGB"), int(self.labels[index])

    def key(self, index: int) -> str:
        """`digits/<number in scikit-learn's order>`."""
        return f"digits/{self.numbers[index]:04d}"


class Digits(Dataset):
    """1,797 scans of handwritten digits, 8 x 8, in ten classes (scikit-learn's copy of the UCI set by Alpaydin and
    Kaynak).

    Grey values of 0 to 16 become 0 to 255. Of each class the share `validation` is held out: the scans whose numbers
    have the smallest sha256, so that both splits hold each digit in proportion and never change.
    """

    name = "digits"
    classes = tuple("0123456789")

    class Config(ComponentConfig):
        """Settings of `digits`."""

        validation: float = Field(default=0.2, gt=0, lt=1, description="share of each class that is held out")

    @cached_property
    def _data(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        module: Any = require("sklearn.datasets", extra="quickstart", wanted_by=f"dataset '{self.name}'")
        data = module.load_digits()
        return np.rint(data.images * (255 / 16)).astype(np.uint8), data.target.astype(np.int64)

    @cached_property
    def _held_out(self) -> NDArray[np.bool_]:
        _, labels = self._data
        held_out = np.zeros(len(labels), dtype=bool)
        for label in range(len(self.classes)):
            ranked = sorted(np.flatnonzero(labels == label).tolist(), key=_hash)
            count = round(self.config.validation * len(ranked))
            held_out[ranked[: min(max(count, 1), len(ranked) - 1)]] = True
        return held_out

    def _part(self, chosen: NDArray[np.bool_]) -> DigitScans:
        pixels, labels = self._data
        return DigitScans(np.flatnonzero(chosen).astype(np.int64), pixels[chosen], labels[chosen])

    def train(self) -> DigitScans:
        """The training split."""
        return self._part(~self._held_out)

    def validation(self) -> DigitScans:
        """The held-out split."""
        return self._part(self._held_out)

    def digest(self) -> str:
        """sha256 over pixels, labels and split."""
        total = hashlib.sha256(b"digits")
        for array in (*self._data, self._held_out):
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


def _hash(number: int) -> bytes:
    return hashlib.sha256(f"digits/{number}".encode()).digest()
