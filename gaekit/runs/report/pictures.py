"""The pictures of a report: kept as pixels until the page is whole, then encoded so that it is small enough."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from gaekit.runs.page import SMALLEST, Encoding, image_tag

MOST_BYTES = 2_900_000
_PLACE = re.compile(r'<img data-picture="(\d+)">')


@dataclass(frozen=True)
class _Picture:
    pixels: NDArray[np.uint8]
    alt: str
    width: int


@dataclass
class Pictures:
    """Collects pictures of a page."""

    kept: list[_Picture] = field(default_factory=list)

    def add(self, pixels_RR3: Tensor, alt: str, width: int | None = None) -> Markup:
        """A place for uint8 pixels (H, W, 3) or (H, W) of a page, `width` CSS pixels wide."""
        self.kept.append(_Picture(pixels_RR3.contiguous().numpy(), alt, width or shown_width(pixels_RR3.shape[1])))
        return Markup('<img data-picture="{}">').format(len(self.kept) - 1)

    def fill(self, page: str, most_bytes: int = MOST_BYTES) -> str:
        """The page with its pictures, encoded as well as `most_bytes` allows; by the smallest encoding where none of
        them does."""
        for encoding in SMALLEST:
            made = self._filled(page, encoding)
            if len(made.encode()) <= most_bytes:
                break
        return made

    def _filled(self, page: str, encoding: Encoding) -> str:
        def tag(found: re.Match[str]) -> str:
            one = self.kept[int(found[1])]
            return image_tag(one.pixels, one.alt, width=one.width, encoding=encoding)

        return _PLACE.sub(tag, page)


def shown_width(side: int) -> int:
    """How wide a picture of so many pixels stands: small ones at a multiple of their size, so that all their pixels
    are equal."""
    if side >= 160:
        return min(side, 224)
    return side * max(1, 112 // side)
