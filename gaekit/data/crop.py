"""From a decoded original to the square of pixels that networks see, and between uint8 and float."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaekit.values import to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_RESIZED = 1 << 25
"""Pixels of a resized image up to which it is made whole before its centre is cut out: 100 MB."""


def center_crop(image: Image, size: int) -> NDArray[np.uint8]:
    """The centre square of an image as (size, size, 3) uint8, as in ADM (Dhariwal and Nichol, arXiv 2105.05233).

    The image is halved by box averaging while its short side is at least twice `size`, then resized bicubically (up,
    if it is smaller) until the short side is `size`, then cut.
    """
    from PIL.Image import Resampling

    if image.mode != "RGB":
        image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    if width * height <= LARGEST_RESIZED:
        whole = image.resize((width, height), Resampling.BICUBIC)
        return np.array(whole)[top : top + size, left : left + size].copy()
    # A strip of 50,000 x 1 pixels would fill the memory on its way to a square: only the centre is resized. Equal up
    # to the rounding of the box's corners.
    along, across = image.width / width, image.height / height
    right, bottom = min((left + size) * along, image.width), min((top + size) * across, image.height)
    box = (left * along, top * across, right, bottom)
    return np.array(image.resize((size, size), Resampling.BICUBIC, box=box))


def to_float(pixels_BRR3: NDArray[Any] | Tensor) -> Tensor:
    """uint8 pixels (B, R, R, 3) -> image_B3RR, float32 in [-1, 1]: x / 127.5 - 1."""
    if isinstance(pixels_BRR3, np.ndarray):  # torch takes neither read-only arrays nor mirrored views
        pixels_BRR3 = torch.from_numpy(np.require(pixels_BRR3, requirements=["C", "W"]))
    pixels = pixels_BRR3
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels are uint8, not {pixels.dtype}")
    return _empty(pixels.permute(0, 3, 1, 2)).copy_(pixels.permute(0, 3, 1, 2)).div_(127.5).sub_(1)


def _empty(like: Tensor) -> Tensor:
    """Contiguous float32 memory of a shape. On the CPU it is numpy's, who asks the kernel for huge pages: a batch of
    images is large, and most of the time would go into the faults of small ones."""
    if like.device.type == "cpu":
        return torch.from_numpy(np.empty(like.shape, dtype=np.float32))
    return torch.empty(like.shape, dtype=torch.float32, device=like.device)


def to_uint8(image_B3RR: Tensor) -> Tensor:
    """image_B3RR around [-1, 1] -> uint8 pixels (B, R, R, 3), as `to_pixels`; undoes `to_float`."""
    return to_pixels(image_B3RR).permute(0, 2, 3, 1).contiguous()
