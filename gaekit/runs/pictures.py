"""Pictures of any kind into what an autoencoder takes, and what it makes back into pictures."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL.Image
import torch
from PIL.Image import Resampling
from torch import Tensor

from gaekit.api.decode import decode_image, upright_rgb
from gaekit.data.crop import center_crop, to_float, to_uint8
from gaekit.errors import DataError
from gaekit.runs.export import save_images
from gaekit.stages.sample import grid_image

Picture = PIL.Image.Image | np.ndarray[Any, Any] | Tensor | str | Path
"""A PIL image, the path of one, or its values: see `to_batches`."""
FAR = 2.0
"""Floats in [-1, 1] do not reach so far, even where a decoder goes beyond its range."""
SHOWN_SIDE = 64
"""Pixels of a side up to which a notebook shows small pictures enlarged."""


class Pictures(Sequence[PIL.Image.Image]):
    """Pictures of one size as PIL images, in order: `pictures[0].show()`, `for picture in pictures`.

    tensors: all of them, uint8 (N, 3, R, R), exactly the pixels of the PIL images. labels: the class of each by its
    index, names: by its name; both () where there are no classes.
    """

    def __init__(self, pixels_BRR3: Tensor, labels: Sequence[int] = (), names: Sequence[str] = ()):
        self._pixels, self.labels, self.names = pixels_BRR3, tuple(labels), tuple(names)

    @property
    def tensors(self) -> Tensor:
        """uint8 (N, 3, R, R) on the CPU, from 0 to 255."""
        return self._pixels.permute(0, 3, 1, 2).contiguous()

    @property
    def pixels(self) -> Tensor:
        """The same with channels last, (N, R, R, 3), as PIL, numpy and matplotlib have it."""
        return self._pixels

    def __len__(self) -> int:
        return len(self._pixels)

    @overload
    def __getitem__(self, index: int) -> PIL.Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> Pictures: ...

    def __getitem__(self, index: int | slice) -> PIL.Image.Image | Pictures:
        if isinstance(index, slice):
            return Pictures(self._pixels[index], self.labels[index], self.names[index])
        return PIL.Image.fromarray(self._pixels[index].numpy())

    def grid(self, columns: int | None = None, zoom: int = 1) -> PIL.Image.Image:
        """All of them as one picture, row by row; `columns` by default so that it is about square. `zoom` shows each
        pixel as so many by so many."""
        grid = grid_image(self._pixels, columns or max(1, round(len(self) ** 0.5)))
        return grid.resize((grid.width * zoom, grid.height * zoom), Resampling.NEAREST) if zoom > 1 else grid

    def save(self, out: str | Path) -> None:
        """Write them by the kind of `out`: .png a grid, .npz arrays (arr_0, and arr_1 for labels), else a folder."""
        save_images(Path(out), self._pixels, self.labels or None)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.grid(zoom=max(1, SHOWN_SIDE // self._pixels.shape[1])).save(file, format="PNG")
        return file.getvalue()

    def __repr__(self) -> str:
        side, what = self._pixels.shape[1], "picture" if len(self) == 1 else "pictures"
        return f"<{len(self)} {what} of {side} x {side} pixels>"


def pictures_of(images: Iterable[Tensor], labels: Sequence[int] = (), names: Sequence[str] = ()) -> Pictures:
    """Batches of image_B3RR in [-1, 1] as pictures."""
    return Pictures(torch.cat([to_uint8(image.float()).cpu() for image in images]), labels, names)


def to_batches(given: Picture | Sequence[Picture], size: int, batch: int) -> Iterator[Tensor]:
    """One picture or several, or a batch of them as one array -> image_B3RR of that size, float32 in [-1, 1].

    Paths and PIL images are turned upright and made RGB as data sets are (`decode_image`). Values are uint8 from 0 to
    255, or floats in [-1, 1]; grey (H, W), or 1 or 3 channels first or last: where both would do, an array has them
    last and a tensor first. What is not of that size is cut to a square and resized as in training (`center_crop`),
    floats in steps of 1/127.5. Raises DataError saying what was given.
    """
    each = _each(given, size)
    if (first := next(each, None)) is None:
        raise DataError("no picture was given")
    each = itertools.chain([first], each)
    while some := list(itertools.islice(each, batch)):
        yield torch.stack(some)


def _each(given: Picture | Sequence[Picture], size: int) -> Iterator[Tensor]:
    """image_3RR of each picture."""
    if isinstance(given, PIL.Image.Image):
        given.load()
        yield to_float(center_crop(upright_rgb(given, "a PIL image"), size)[None])[0]
    elif isinstance(given, str | Path):
        yield to_float(center_crop(decode_image(given), size)[None])[0]
    elif isinstance(given, Tensor | np.ndarray):
        for values in _channels_first(given):
            yield _sized(_checked(values), size)
    elif isinstance(given, Pictures):
        yield from _each(given.tensors, size)
    elif isinstance(given, Sequence):
        for picture in given:
            yield from _each(picture, size)
    else:
        raise DataError(f"{type(given).__name__} is no picture; give PIL images, paths, arrays or tensors")


def _channels_first(given: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """(N, 3, H, W) of the values of one picture or of several."""
    is_tensor = isinstance(given, Tensor)
    values = (
        given.detach().cpu()
        if isinstance(given, Tensor)
        else torch.from_numpy(np.require(given, requirements=["C", "W"]))
    )
    if values.ndim == 2:
        return values.expand(1, 3, *values.shape)
    if values.ndim == 3:
        values = values[None]
    first, last = (values.ndim == 4 and values.shape[axis] in (1, 3) for axis in (1, 3))
    if not (first or last) or 0 in values.shape:
        raise DataError(
            f"values of shape {tuple(given.shape)} are no pictures; give (H, W), (3, H, W) or (H, W, 3), or several"
        )
    if last and not (first and is_tensor):
        values = values.permute(0, 3, 1, 2)
    return values.expand(-1, 3, -1, -1)


def _checked(value_3HW: Tensor) -> Tensor:
    """uint8, or float32 in [-1, 1]."""
    if value_3HW.dtype == torch.uint8:
        return value_3HW
    if not value_3HW.is_floating_point():
        raise DataError(f"values of type {value_3HW.dtype} are no pictures; give uint8 from 0 to 255, or floats")
    value = value_3HW.float()
    if not value.isfinite().all() or value.abs().max() > FAR:
        raise DataError(
            f"floats of pictures lie in [-1, 1], these from {value.min():.4g} to {value.max():.4g}; "
            "give x / 127.5 - 1 of 8-bit values, or these as uint8"
        )
    return value


def _sized(value_3HW: Tensor, size: int) -> Tensor:
    fits, is_bytes = value_3HW.shape[1:] == (size, size), value_3HW.dtype == torch.uint8
    if fits and not is_bytes:
        return value_3HW
    pixels = value_3HW.permute(1, 2, 0) if is_bytes else to_uint8(value_3HW[None])[0]
    array = pixels.contiguous().numpy()
    return to_float((array if fits else center_crop(PIL.Image.fromarray(array), size))[None])[0]
