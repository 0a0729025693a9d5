"""What samples are compared with, from a file: an .npz of ADM (statistics, images) or a folder of images."""

from __future__ import annotations

import hashlib
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from gaekit.api.assets import sha256_of
from gaekit.api.decode import decode_image
from gaekit.api.npy import UNREADABLE_ZIP, read_npy_head
from gaekit.errors import GaekitError

IMAGES, MEAN, COVARIANCE = "arr_0", "mu", "sigma"
SPATIAL = "_s"
"""What the names of the statistics of spatial features end with."""
REFERENCE_HINT = (
    "give an .npz of ADM, a published one by name (adm_imagenet256) or a folder of images, or leave `reference` out to "
    "compare with the data set's `split`"
)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
BLOCK = 64
"""Images read and looked at at once."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, float64, of a number of images that the file does not tell."""

    mean: Tensor
    covariance: Tensor
    count: int | None = None


class Reference(ABC):
    """One file or folder of real images, or of what is known of them."""

    kind: str
    has_images: bool
    has_statistics = has_spatial_statistics = False

    def __init__(self, path: Path, owner: str, image_size: int):
        self.path, self.owner, self.image_size = path, owner, image_size

    @abstractmethod
    def pixels(self) -> Iterator[Tensor]:
        """The images, uint8 (B, 3, R, R), some at a time. Raises GaekitError."""

    @cached_property
    def sha256(self) -> str:
        """What identifies the content: of the file, or of a folder's sorted relative paths and each file's sha256."""
        return content_sha256(self.path, self.owner)

    def statistics(self, width: int, *, spatial: bool = False) -> Statistics:
        """Mean (F,) and covariance (F, F) of features of `width`, or of spatial ones. Raises GaekitError for others."""
        raise TypeError(f"{self.path} holds no statistics")

    def error(self, what: str, right: str) -> GaekitError:
        """The error for this reference: what it is, what would be right."""
        return GaekitError(f"{self.owner}: reference {self.path} {what}; {right}")

    def _check_size(self, shape: tuple[int, ...], where: str) -> None:
        side = self.image_size
        if tuple(shape[-3:]) != (side, side, 3):
            raise self.error(
                f"has {where} of shape {tuple(shape)}",
                f"it must show RGB images of image.size = {side}, {side} x {side} x 3",
            )


class NpzReference(Reference):
    """An .npz as ADM's evaluator reads it: `mu` and `sigma`, or images `arr_0` (N, R, R, 3), uint8, or both."""

    kind = "npz"

    def __init__(self, path: Path, owner: str, image_size: int):
        super().__init__(path, owner, image_size)
        names = self._names()
        self.has_images = IMAGES in names
        self.has_statistics = {MEAN, COVARIANCE} <= names
        self.has_spatial_statistics = {MEAN + SPATIAL, COVARIANCE + SPATIAL} <= names
        if not (self.has_images or self.has_statistics):
            raise self.error(
                f"holds {', '.join(sorted(names)) or 'nothing'}",
                f"an .npz of ADM holds {MEAN} and {COVARIANCE}, or images as {IMAGES}",
            )
        if self.has_images:
            with self._array(IMAGES) as (_, shape, fortran, dtype):
                pass
            self._check_size(shape, IMAGES)
            if len(shape) != 4 or dtype != np.uint8 or fortran:
                raise self.error(f"has {IMAGES} of {dtype}, {shape}", "it must be uint8 (N, R, R, 3) in C order")

    def pixels(self) -> Iterator[Tensor]:
        """The images of `arr_0`, read a block at a time: ADM's files do not fit into every memory."""
        with self._array(IMAGES) as (file, shape, _, _):
            image_bytes = shape[1] * shape[2] * shape[3]
            for first in range(0, shape[0], BLOCK):
                count = min(BLOCK, shape[0] - first)
                content = bytearray(file.read(count * image_bytes))
                if len(content) < count * image_bytes:
                    raise self.error(f"ends before image {first + count} of {shape[0]}", "copy it again, it is cut off")
                yield torch.frombuffer(content, dtype=torch.uint8).view(count, *shape[1:]).permute(0, 3, 1, 2)

    def statistics(self, width: int, *, spatial: bool = False) -> Statistics:
        """`mu` (F,) and `sigma` (F, F), or `mu_s` and `sigma_s`."""
        end = SPATIAL if spatial else ""
        mean, covariance = self._numbers(MEAN + end, (width,)), self._numbers(COVARIANCE + end, (width, width))
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and np.allclose(covariance, covariance.T)):
            raise self.error(
                f"has no covariance in {COVARIANCE + end}", "it must be finite and symmetric; make it again"
            )
        return Statistics(torch.from_numpy(mean), torch.from_numpy(covariance))

    def _numbers(self, name: str, wanted: tuple[int, ...]) -> np.ndarray:
        """An array of `wanted` shape as float64; what has another is not read."""
        with self._array(name) as (file, shape, fortran, dtype):
            if shape != wanted or dtype.kind not in "fiu":
                raise self.error(
                    f"has {name} of {dtype}, {shape}",
                    f"the features have {wanted[0]} dimensions: take statistics of the same network and layer",
                )
            content = file.read(math.prod(shape) * dtype.itemsize)
        if len(content) < math.prod(shape) * dtype.itemsize:
            raise self.error(f"ends within {name}", "copy it again, it is cut off")
        values = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
        return values.astype(np.float64)

    def _names(self) -> set[str]:
        with self._archive() as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (*UNREADABLE_ZIP, OSError) as error:
            raise self.error(f"is no readable .npz ({error})", "copy it again, or save it with numpy.savez") from error

    @contextmanager
    def _array(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype]]:
        """(the file at its first number, shape, whether in Fortran's order, dtype): nothing of it is in memory yet."""
        with self._archive() as archive, archive.open(f"{name}.npy") as file:
            try:
                head = read_npy_head(file)
            except ValueError as error:
                raise self.error(f"has no readable array {name} ({error})", "save it with numpy.savez") from error
            yield file, *head


class FolderReference(Reference):
    """A folder of images, in it and below, already of the right size: nothing is resized or cropped in passing."""

    kind = "folder"
    has_images = True

    def __init__(self, path: Path, owner: str, image_size: int):
        super().__init__(path, owner, image_size)
        self.files = _images_in(path)
        if not self.files:
            raise self.error("holds no image", f"files that count end in {', '.join(SUFFIXES)}")

    def pixels(self) -> Iterator[Tensor]:
        """The images in the order of their paths. Raises BadImage for one that cannot be decoded."""
        for first in range(0, len(self.files), BLOCK):
            images = [self._decode(file) for file in self.files[first : first + BLOCK]]
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    def _decode(self, file: Path) -> np.ndarray:
        pixels = np.array(decode_image(file), dtype=np.uint8)
        self._check_size(pixels.shape, str(file.relative_to(self.path)))
        return pixels


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def content_sha256(path: Path, owner: str) -> str:
    """What identifies the content of a file, or of the images in a folder. Raises GaekitError where it is absent."""
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        raise _absent(path, owner)
    whole = hashlib.sha256()
    for file in _images_in(path):
        whole.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
    return whole.hexdigest()


def open_reference(path: Path, owner: str, image_size: int) -> Reference:
    """The reference at `path`. Raises GaekitError where it is absent or of no known kind."""
    if path.is_dir():
        return FolderReference(path, owner, image_size)
    if not path.is_file():
        raise _absent(path, owner)
    return NpzReference(path, owner, image_size)


def _absent(path: Path, owner: str) -> GaekitError:
    return GaekitError(f"{owner}: no reference {path}; {REFERENCE_HINT}")
