"""The images of a parquet file, a table as the Hugging Face hub has them: a column of encoded images, one of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gaekit.api import BadImage, DataError, decode_image, require
from gaekit.data.given import MOST_CLASSES
from gaekit.store.files import sha256_file
from gaekit.store.npz import PACKING, UNPACKED

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE, LABEL = "image", "label"
MANY_ROWS = 1_000_000


class ParquetSource:
    """Every row of a parquet file, in order. Its column `image` holds encoded images, as bytes or with their paths;
    `label`, where there is one, whole numbers from 0, or names, sorted. A group of rows is in memory at a time.

    Raises DataError for another table, and GaekitError where pyarrow is absent.
    """

    def __init__(self, file: Path):
        self.file = file
        self._parquet = require("pyarrow.parquet", extra="data", wanted_by=str(file))
        with self._opened() as opened:
            self._begin(opened)
        self._group: tuple[int, list[Any]] = (-1, [])

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with self._parquet.ParquetFile(self.file) as opened:
                yield opened
        except (OSError, ValueError, NotImplementedError, LookupError, MemoryError) as error:  # pyarrow's are of these
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.file}: cannot be read as parquet: {why}") from error

    def _begin(self, opened: Any) -> None:
        names = opened.schema_arrow.names
        if IMAGE not in names:
            raise DataError(f"{self.file}: has no column '{IMAGE}'; it has: {', '.join(names)}")
        _check_claims(self.file, opened.metadata)
        counts = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.has_labels = LABEL in names
        written = opened.read(columns=[LABEL]).column(LABEL).to_pylist() if self.has_labels else [0] * len(self)
        self.classes, self.labels = _labelled(self.file, written, _class_names(opened.schema_arrow))
        if not self.has_labels:
            self.classes = ()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[Image, int]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        if self._group[0] != group:
            with self._opened() as opened:
                self._group = group, opened.read_row_group(group, columns=[IMAGE]).column(IMAGE).to_pylist()
        cell = self._group[1][index - int(self._starts[group])]
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise BadImage(f"{self.key(index)}: holds no image; its column '{IMAGE}' must hold the encoded bytes")
        return decode_image(self.key(index), data=data), self.labels[index]

    def key(self, index: int) -> str:
        """The row."""
        return f"{self.file.name}[{index}]"

    def digest(self) -> str:
        """sha256 of the file."""
        return sha256_file(self.file)


def _check_claims(file: Path, metadata: Any) -> None:
    """Raise DataError where a table claims to unpack into more than encoded images and their labels can come from: a
    row has some bytes, and what is encoded is hardly packed further."""
    size = file.stat().st_size
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    unpacked = max((group.total_byte_size for group in groups), default=0)
    if metadata.num_rows > max(MANY_ROWS, size) or unpacked > max(UNPACKED, PACKING * size):
        raise DataError(
            f"{file}: claims {metadata.num_rows} rows and groups of up to {unpacked} bytes, and has {size}; it is "
            "damaged, or its images are not encoded"
        )


def _class_names(schema: Any) -> tuple[str, ...] | None:
    """The names that the hub's package wrote beside the columns; None where it did not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[LABEL]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _labelled(file: Path, written: list[Any], names: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[int]]:
    """(class names, the label of each row). Raises DataError for what is no label."""
    if all(isinstance(value, str) for value in written):
        known = names or tuple(sorted(set(written)))
        place = {name: number for number, name in enumerate(known)}
        if unknown := [name for name in written if name not in place]:
            raise DataError(f"{file}: label '{unknown[0]}' is none of the classes {', '.join(known[:10])}")
        return known, [place[name] for name in written]
    most = MOST_CLASSES if names is None else len(names)
    for row, value in enumerate(written):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f"{file}: {LABEL} of row {row} is {value!r}; labels are whole numbers from 0, or names")
        if value >= most:
            raise DataError(f"{file}: {LABEL} of row {row} is {value}; there are at most {most:,} classes, from 0 on")
    return names or tuple(map(str, range(max(written, default=-1) + 1))), written
