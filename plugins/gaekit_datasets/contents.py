"""What files hold, as hashes: read once, and again only where a file's size or times say that it may have changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from errno import EACCES, ELOOP, ENOENT, EPERM
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gaekit.api import MachineFailed, progress
from gaekit_datasets.cache import Arrays, KeptArrays
from gaekit_datasets.scan import Names

EDGE = 1 << 16
THREADS = 16
"""Disks, those in a network above all, answer many questions at a time; hashing runs beside them."""

UNREADABLE = bytes(32)
"""Stands for the contents of a file that cannot be opened."""

UNSETTLED = -2
"""The size noted of a file that is to be read again: one that could not be opened, or was written just before it was
read, so that a later change might bear the same times."""

Hashes = NDArray[np.uint8]
Stamps = NDArray[np.int64]
"""A row a file: bytes, time of change of the contents, time of change of the entry, both in nanoseconds. The last
also tells a file that was moved into another's place with its old times."""


def content_hash(file: BinaryIO, start: int, size: int) -> bytes:
    """sha256 of the `size` bytes from `start`: of all of them up to 128 KiB, beyond of the first and last 64 KiB.

    The ends of a compressed image depend on all of it; the rest of a large file is not read.
    """
    file.seek(start)
    if size <= 2 * EDGE:
        return hashlib.sha256(file.read(size)).digest()
    total = hashlib.sha256(file.read(EDGE))
    file.seek(start + size - EDGE)
    total.update(file.read(EDGE))
    return total.digest()


def content_hashes(root: Path, names: Sequence[str], stamps: Stamps, scope: str, *, whole: bool = False) -> Hashes:
    """The hash (row) of each file: `names` are relative to `root`, `scope` says which files there are asked for.

    The hash is `content_hash`, or with `whole` that of all bytes: of tables, whose ends tell nothing. Files that have
    the stamps that they had when they were last read are not opened. Raises MachineFailed where the disk fails.
    """
    kept = KeptArrays("contents 1", str(root.resolve()), scope, str(whole))
    listed = Names(names)
    hashes, known = _recalled(kept.read(), listed, stamps)
    if known.all():
        return hashes
    with kept.lock():
        hashes, known = _recalled(kept.read(), listed, stamps)
        if not known.all():
            begun = time.time_ns()
            _read(root, names, np.flatnonzero(~known).tolist(), hashes, whole)
            noted = settled(stamps, begun)
            noted[~hashes.any(axis=1), 0] = UNSETTLED
            kept.write({**listed.arrays, "stamps": noted, "hashes": hashes})
    return hashes


def _read(root: Path, names: Sequence[str], rows: list[int], hashes: Hashes, whole: bool) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda row: _hash_of(root / names[row], whole), rows)
        for row, digest in zip(rows, progress(read, f"reading {root.name} once", len(rows)), strict=True):
            hashes[row] = np.frombuffer(digest, dtype=np.uint8)


def _recalled(kept: Arrays, names: Names, stamps: Stamps) -> tuple[Hashes, NDArray[np.bool_]]:
    hashes, known = np.zeros((len(names), 32), dtype=np.uint8), np.zeros(len(names), dtype=bool)
    if not {"bytes", "ends", "stamps", "hashes"} <= kept.keys():
        return hashes, known
    before = Names.of(kept)
    if before == names:
        rows = np.arange(len(names))
    else:
        row_of = {before[row]: row for row in range(len(before))}
        rows = np.array([row_of.get(names[row], -1) for row in range(len(names))], dtype=np.int64)
    known[rows >= 0] = (kept["stamps"][rows[rows >= 0]] == stamps[rows >= 0]).all(axis=1)
    hashes[known] = kept["hashes"][rows[known]]
    return hashes, known


def settled(stamps: Stamps, begun: int) -> Stamps:
    """Stamps to keep: those of files written just before `begun` (nanoseconds), when reading began, are spoilt."""
    newest = stamps[:, 1:].max(axis=1, initial=0)
    # Linux notes times by the tick of its clock, some disks by the second or two.
    grain = np.where(newest % 10**9 == 0, 2 * 10**9, 2 * 10**7)
    kept = stamps.copy()
    kept[newest + grain >= begun, 0] = UNSETTLED
    return kept


def _hash_of(path: Path, whole: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if whole:
                return hashlib.file_digest(file, "sha256").digest()
            size = file.seek(0, 2)
            return content_hash(file, 0, size)
    except OSError as error:
        if error.errno in (ENOENT, EACCES, EPERM, ELOOP):
            return UNREADABLE  # it is named where it is decoded
        raise MachineFailed(f"{path}: cannot be read: {error}") from error
