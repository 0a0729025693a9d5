"""Pictures within a page: data URIs with their size and what they show in words."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

SMALL = 64
"""Sides up to so many pixels are kept as they are, as PNG."""


@dataclass(frozen=True)
class Encoding:
    """How pictures are made small: the longest side that is kept, in pixels, and the quality of WebP or JPEG."""

    side: int = 256
    quality: int = 82


SMALLEST = (Encoding(256, 82), Encoding(256, 60), Encoding(192, 50), Encoding(128, 45), Encoding(96, 35))
"""From good to small: a page that is too large is made again by the next."""


def image_tag(
    pixels: NDArray[np.uint8],
    alt: str,
    *,
    width: int | None = None,
    encoding: Encoding = SMALLEST[0],
    css: str = "",
) -> Markup:
    """An `<img>` of uint8 pixels (H, W, 3) or (H, W). `width` is how wide it stands, in CSS pixels, at most as wide as
    its surroundings; small images grow without being blurred. Raises ValueError for an empty `alt`."""
    if not alt:
        raise ValueError("a picture needs words for those who do not see it")
    high, wide = pixels.shape[:2]
    shown = width or wide
    names = " ".join(name for name in (css, "pixels" if shown > wide else "") if name)
    return Markup('<img src="{}" width="{}" height="{}" alt="{}" class="{}">').format(
        Markup(data_uri(pixels, encoding)), shown, max(1, round(shown * high / wide)), alt, names
    )


def data_uri(pixels: NDArray[np.uint8], encoding: Encoding = SMALLEST[0]) -> str:
    """The pixels within an address: PNG where they are few, else WebP, or JPEG where Pillow has no WebP."""
    from PIL import Image, features

    image = Image.fromarray(np.ascontiguousarray(pixels))
    buffer = io.BytesIO()
    if max(image.size) > max(encoding.side, SMALL):
        scale = encoding.side / max(image.size)
        sides = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(sides, Image.Resampling.LANCZOS)
    if max(image.size) <= SMALL:
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    elif features.check("webp"):
        kind = "webp"
        image.save(buffer, "WEBP", quality=encoding.quality, method=4)
    else:
        kind = "jpeg"
        image.save(buffer, "JPEG", quality=encoding.quality, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
