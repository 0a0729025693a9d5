"""Images that somebody else made, by the path that a person gives: a folder, or the array of an .npz. They are taken as
they are, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gaekit.api import ComponentConfig, DataAbsent, DataError, Dataset, ImageSource, decode_image, files_below
from gaekit.store.files import sha256_file
from gaekit.store.npz import npz_array, npz_names

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
IMAGES, LABELS = "arr_0", "arr_1"
"""The arrays of an .npz as ADM's evaluator and `gaekit sample` have them."""
MOST_CLASSES = 100_000
"""As many as labels without names may count; ImageNet-21k has 21,841."""


class FolderSource:
    """Every image below a folder, in the order of their names. Where all lie in sub-folders, those at the top are
    `classes`, sorted."""

    def __init__(self, root: Path):
        if not root.is_dir():
            raise DataAbsent(f"{root}: no such folder")
        found = (name for name, entry in files_below(root, "", "images") if entry.is_file())
        self.root = root
        self.names = sorted(name for name in found if PurePosixPath(name).suffix.lower() in SUFFIXES)
        if not self.names:
            raise DataError(f"{root}: holds no image; names that count end in {', '.join(SUFFIXES)}")
        tops = [PurePosixPath(name).parts for name in self.names]
        self.classes = tuple(sorted({parts[0] for parts in tops})) if all(len(p) > 1 for p in tops) else ()
        place = {name: number for number, name in enumerate(self.classes)}
        self.labels = [place.get(parts[0], 0) for parts in tops]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return decode_image(self.root / self.names[index]), self.labels[index]

    def key(self, index: int) -> str:
        """The path below the folder."""
        return self.names[index]

    def digest(self) -> str:
        """sha256 over names and contents."""
        whole = hashlib.sha256()
        for name in self.names:
            whole.update(f"{name}\0{sha256_file(self.root / name)}\n".encode())
        return whole.hexdigest()


class ArraySource:
    """The images `arr_0` of an .npz, uint8 (N, R, R, 3), with the labels `arr_1` where it has them. What is not
    compressed is not read before it is asked for."""

    def __init__(self, file: Path):
        self.file, names = file, npz_names(file)
        if IMAGES not in names:
            raise DataError(f"{file}: holds {', '.join(sorted(names)) or 'nothing'}; images are in an array {IMAGES}")
        self._pixels = npz_array(file, IMAGES)
        if (
            self._pixels.dtype != np.uint8
            or self._pixels.ndim != 4
            or self._pixels.shape[3] != 3
            or 0 in self._pixels.shape[1:3]
        ):
            raise DataError(
                f"{file}: {IMAGES} is {self._pixels.dtype} {self._pixels.shape}; images are uint8, (N, side, side, 3)"
            )
        self.has_labels = LABELS in names
        self.labels = _labels(file, len(self)) if self.has_labels else np.zeros(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL.Image import fromarray

        return fromarray(np.array(self._pixels[index])), int(self.labels[index])

    def key(self, index: int) -> str:
        """The row."""
        return f"{self.file.name}[{index}]"

    def digest(self) -> str:
        """sha256 of the file."""
        return sha256_file(self.file)


def _labels(file: Path, count: int) -> NDArray[np.int64]:
    labels = npz_array(file, LABELS)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(f"{file}: {LABELS} is {labels.dtype} {labels.shape}; labels are {count} whole numbers")
    if count and not (int(labels.min()) >= 0 and int(labels.max()) < MOST_CLASSES):
        raise DataError(
            f"{file}: {LABELS} goes from {labels.min()} to {labels.max()}; labels are from 0 to {MOST_CLASSES - 1}"
        )
    return np.asarray(labels, dtype=np.int64)


class JoinedSource:
    """Several splits as one, in the order of their keys."""

    def __init__(self, splits: Sequence[ImageSource]):
        rows = [(split.key(row), split, row) for split in splits for row in range(len(split))]
        self._rows = sorted(rows, key=lambda row: row[0])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        _, split, row = self._rows[index]
        return split[row]

    def key(self, index: int) -> str:
        """The key that its split gives it."""
        return self._rows[index][0]


class SameSize:
    """Images of `side` x `side` pixels and no others: nothing is resized in passing. `like` is an image of that size,
    for the message; `option` is what resizes."""

    def __init__(self, source: ImageSource, side: int, like: str, option: str = "--size R"):
        self.source, self.side, self.like, self.option = source, side, like, option

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        image, label = self.source[index]
        if image.size != (self.side, self.side):
            raise DataError(
                f"{self.key(index)}: is {image.width} x {image.height}, and {self.like} {self.side} x {self.side}; "
                f"nothing is resized unless {self.option} says to what: then all are cropped and resized as in training"
            )
        return image, label

    def key(self, index: int) -> str:
        """That of the image."""
        return self.source.key(index)


class OneSplit(Dataset):
    """A data set of images that are all there is: both splits are they."""

    def __init__(self, source: ImageSource, classes: tuple[str, ...], digest: str):
        super().__init__(ComponentConfig(use="given"))
        self.source, self.classes, self._digest = source, classes, digest

    def train(self) -> ImageSource:
        """All of them."""
        return self.source

    def validation(self) -> ImageSource:
        """All of them."""
        return self.source

    def digest(self) -> str:
        """What stands for their content."""
        return self._digest
