"""An .npz larger than memory: written an array at a time, equal byte for byte on every run, and read by blocks of
rows."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.lib import format as npy

from gaekit.api.npy import UNREADABLE_ZIP, read_npy_head
from gaekit.errors import ArtifactError
from gaekit.inside import open_regular
from gaekit.store.files import atomic

LARGEST_ROW = 1 << 28
"""Bytes of a row: an image of 9,000 pixels a side."""
UNPACKED, PACKING = 1 << 28, 200
"""So many bytes are unpacked into memory whatever they were packed into; more only where they were packed into a 200th
at least. Drawings come to a 50th, zeros to a 1,000th."""


class NpzWriter:
    """Use as a context: `add` arrays, the file appears whole at the end, or not at all."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> NpzWriter:
        self._atomic = atomic(self.path)
        self._zip = zipfile.ZipFile(self._atomic.__enter__(), "w", zipfile.ZIP_STORED, allowZip64=True)
        return self

    def add(self, name: str, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
        """One array of `shape`, its rows given in blocks. Raises ValueError if they are not as many as said."""
        head = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        rows = 0
        with self._zip.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
            npy.write_array_header_2_0(file, head)
            for block in blocks:
                rows += len(block)
                file.write(np.ascontiguousarray(block, dtype=dtype).tobytes())
        if rows != shape[0]:
            raise ValueError(f"{self.path}: {name} was to have {shape[0]} rows, got {rows}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._atomic.__exit__(kind, error, trace)


def npz_rows(path: Path, name: str, block: int, first: int = 0, every: int = 1) -> Iterator[np.ndarray]:
    """The rows of one array, `block` at a time: of its blocks number `first` and every `every`-th after it; what lies
    between is not read where the file is not compressed. Raises ArtifactError if the file has no such array, or not
    what that array's head says."""
    with _opened(path, name) as (archive, file):
        shape, dtype = _row_by_row(file, path, name)
        row, begin = math.prod(shape[1:]) * dtype.itemsize, file.tell()
        if row > LARGEST_ROW:
            raise ArtifactError(f"{path}: {name} claims to have rows of {row} bytes; it is damaged")
        if begin + shape[0] * row > archive.getinfo(f"{name}.npy").file_size:
            raise ArtifactError(f"{path}: {name} ends before row {shape[0]}, which it claims to have; it is cut off")
        with _rows_of(path, archive, f"{name}.npy", file) as (rows, offset):
            for start in range(first * block, shape[0], every * block):
                count = min(block, shape[0] - start)
                rows.seek(offset + begin + start * row)
                content = bytearray(rows.read(count * row))
                if len(content) < count * row:
                    raise ArtifactError(f"{path}: {name} ends before row {start + count} of {shape[0]}; it is cut off")
                yield np.frombuffer(content, dtype=dtype).reshape(count, *shape[1:])


def _row_by_row(file: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of the array that begins here. Raises ArtifactError where its rows do not follow each other."""
    shape, fortran, dtype = read_npy_head(file)
    if fortran or not shape:
        raise ArtifactError(f"{path}: {name} is not stored row by row; save it again in C order")
    return shape, dtype


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[zipfile.ZipFile, IO[bytes]]]:
    with _archive(path) as archive, archive.open(f"{name}.npy") as file:
        yield archive, file


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_regular(path, "samples") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except UNREADABLE_ZIP as error:
        raise ArtifactError(f"{path}: cannot be read as an .npz ({error}); it is damaged or cut off") from error


@contextmanager
def _rows_of(path: Path, archive: zipfile.ZipFile, member: str, file: IO[bytes]) -> Iterator[tuple[IO[bytes], int]]:
    """(a file to seek in, where the member begins in it). A stored member is read where it lies: zipfile reads all that
    it is told to skip."""
    info = archive.getinfo(member)
    if info.compress_type != zipfile.ZIP_STORED:
        yield file, 0
        return
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)  # of the local header: its length is 30 bytes, a name and an extra field
        name, extra = struct.unpack("<HH", raw.read(4))
        yield raw, info.header_offset + 30 + name + extra


def npz_array(path: Path, name: str) -> np.ndarray:
    """One array by its rows, to be read at any of them: mapped where the file is not compressed, so that it takes no
    memory, else whole in memory. Raises ArtifactError as `npz_rows` does."""
    with _opened(path, name) as (archive, file):
        shape, dtype = _row_by_row(file, path, name)
        begin, wanted = file.tell(), math.prod(shape) * dtype.itemsize
        if begin + wanted > archive.getinfo(f"{name}.npy").file_size:
            raise ArtifactError(f"{path}: {name} ends before row {shape[0]}, which it claims to have; it is cut off")
        with _rows_of(path, archive, f"{name}.npy", file) as (rows, offset):
            if rows is file:
                packed = archive.getinfo(f"{name}.npy").compress_size
                if wanted > max(UNPACKED, PACKING * packed):
                    raise ArtifactError(
                        f"{path}: {name} claims {wanted} bytes of {packed}, more than images are packed; if it is "
                        "right, save it again by numpy.savez, which does not compress"
                    )
                return np.frombuffer(rows.read(wanted), dtype=dtype).reshape(shape)
            if not wanted:
                return np.empty(shape, dtype)
            return np.memmap(path, dtype, "r", offset + begin, shape)


def npz_length(path: Path, name: str) -> int:
    """How many rows an array has. Raises ArtifactError if the file has no such array."""
    with _opened(path, name) as (_, file):
        return _row_by_row(file, path, name)[0][0]


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in a file. Raises ArtifactError if it is none."""
    with _archive(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}
