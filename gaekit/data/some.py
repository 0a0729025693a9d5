"""A few images of a split, of as many classes as possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from gaekit.api import ImageSource


class SomeImages:
    """`count` images of a longer split, as an ImageSource: one of each class, then a second of each, and so on, where
    the split knows its labels; else at equal distances."""

    def __init__(self, source: ImageSource, count: int):
        self.source = source
        labels = getattr(source, "labels", None)
        self.indices = _spread(len(source), count) if labels is None else _of_each_class(np.asarray(labels), count)
        if labels is not None:
            self.labels = [int(labels[index]) for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return self.source[int(self.indices[index])]

    def key(self, index: int) -> str:
        """The name of the image in the longer split."""
        return self.source.key(int(self.indices[index]))


def _spread(length: int, count: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) * length // count


def _of_each_class(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first images by their number within their class, in the order of the split."""
    by_class = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))])
    number = np.empty(len(labels), dtype=np.int64)
    number[by_class] = np.arange(len(labels)) - starts[labels[by_class]]
    return np.sort(np.argsort(number, kind="stable")[:count]).astype(np.int64)
