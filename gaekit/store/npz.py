"""An .npz larger than memory: written an array at a time, equal byte for byte on every run, and read by blocks of
rows."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy

from gaekit.store.files import atomic


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


def npz_rows(path: Path, name: str, block: int) -> Iterator[np.ndarray]:
    """The rows of one array, `block` at a time. Raises KeyError if the file has no such array."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if fortran:
            raise ValueError(f"{path}: {name} is stored column by column; save it again in C order")
        row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        for first in range(0, shape[0], block):
            count = min(block, shape[0] - first)
            yield np.frombuffer(bytearray(file.read(count * row)), dtype=dtype).reshape(count, *shape[1:])


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in a file."""
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}
