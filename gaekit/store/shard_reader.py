"""Reading rows of sharded tensors where they lie on disk: nothing of the cache is held, and no file is mapped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.store.dtypes import DTYPE_NAMES
from gaekit.store.files import read_json

MANIFEST = "manifest.json"
OPEN_FILES = 256
DTYPES = {
    DTYPE_NAMES[dtype]: dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
}


@dataclass(frozen=True)
class Stored:
    """Where the rows of one tensor lie in a shard's file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class ShardReader:
    """Rows of a finished folder. Raises ArtifactError for a shard that is absent, cut off or of another length."""

    def __init__(self, folder: Path, facts: dict[str, Any] | None = None):
        self.folder = folder
        self.facts = read_manifest(folder) if facts is None else facts
        records = [record for record in self.facts["shards"] if record["rows"]]
        self.files = [folder / record["file"] for record in records]
        self.heads = [self._head(record) for record in records]
        self._starts = np.cumsum([0, *(record["rows"] for record in records)])
        if self._starts[-1] != self.facts["rows"]:
            raise ArtifactError(
                f"{folder}: its {MANIFEST} says {self.facts['rows']} rows, its shards hold {self._starts[-1]}; "
                "the manifest is damaged, and the cache has to be built again"
            )
        self._open = lru_cache(maxsize=OPEN_FILES)(partial(_open, self.files))
        names = set.intersection(*map(set, self.heads)) if self.heads else ()
        self._offsets = {name: np.array([head[name].offset for head in self.heads]) for name in names}

    def _head(self, record: dict[str, Any]) -> dict[str, Stored]:
        try:
            return read_head(self.folder / record["file"], record["rows"])
        except ArtifactError as error:
            mend = f"`gaekit latents mend {self.folder}` removes what is damaged, and the next run writes it again"
            raise ArtifactError(f"{error}; {mend}") from error

    def __len__(self) -> int:
        return int(self.facts["rows"])

    def empty(self, name: str, count: int) -> Tensor:
        """Memory for `count` rows of the named tensor."""
        stored = self.heads[0][name]
        return torch.empty((count, *stored.shape[1:]), dtype=stored.dtype)

    def rows(self, name: str, indices: Tensor) -> Tensor:
        """The named rows in the order of `indices` (int64)."""
        out = self.empty(name, len(indices))
        self.read(name, indices.numpy(), out, np.arange(len(indices)))
        return out

    def read(self, name: str, indices: NDArray[np.int64], out: Tensor, places: NDArray[np.int64]) -> None:
        """Read row indices[i] of the named tensor into out[places[i]]; neighbours are read at once."""
        if not len(indices):
            return
        shard = np.searchsorted(self._starts[1:], indices, side="right")
        row = indices - self._starts[shard]
        memory, size = out.view(torch.uint8).view(len(out), -1).numpy(), self.heads[0][name].row_bytes
        offsets = (self._offsets[name][shard] + row * size).tolist()
        breaks = np.flatnonzero((np.diff(row) != 1) | (np.diff(shard) != 0) | (np.diff(places) != 1)) + 1
        numbers, starts = shard.tolist(), places.tolist()
        for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(indices)], strict=True):
            self._open(numbers[first]).read(memory[starts[first] : starts[first] + last - first], offsets[first])

    def shards(self, name: str) -> Iterator[Tensor]:
        """The named tensor, a shard at a time."""
        for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True):
            yield self.rows(name, torch.arange(int(start), int(stop)))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a finished folder says of itself. Raises ArtifactError where it is absent or damaged, or names as a shard
    anything but the file that `ShardWriter` gives that shard: files that it names are read and, mending, deleted."""
    file = folder / MANIFEST
    if not file.exists():
        raise ArtifactError(f"{folder}: no {MANIFEST}; the cache is absent or was not finished")
    facts = read_json(file)
    if not isinstance(facts, dict) or not isinstance(shards := facts.get("shards"), list):
        raise ArtifactError(f"{file}: damaged (it has no list of shards); the cache has to be built again")
    faults = [fault_of_record(record, number) for number, record in enumerate(shards)]
    if not _is_count(facts.get("rows")):
        faults.append("it does not say how many rows it has")
    if fault := next(filter(None, faults), None):
        raise ArtifactError(f"{file}: damaged ({fault}); the cache has to be built again")
    return facts


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"{number:05d}.safetensors"


def fault_of_record(record: Any, number: int) -> str | None:
    """What is wrong with what a manifest says of its shard `number`, or None: `rows` is a number, `file` the one name
    that the shard can have, or null where it has no rows, and `bytes` and `span` are numbers where they are said."""
    if not isinstance(record, dict) or not _is_count(rows := record.get("rows")):
        return f"shard {number} does not say how many rows it has"
    name, span = record.get("file"), record.get("span")
    if name != (shard_name(number) if rows else None):
        expected = f"'{shard_name(number)}'" if rows else "null"
        return f"the file of shard {number} is {str(name)[:80]!r}, expected {expected}"
    if not _is_count(record.get("bytes", 0)):
        return f"shard {number} does not say how many bytes it has"
    if span is not None and not (isinstance(span, list) and len(span) == 2 and all(map(_is_count, span))):
        return f"shard {number} has a span that is none"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_head(path: Path, rows: int) -> dict[str, Stored]:
    """The tensors of a safetensors file. Raises ArtifactError if it is absent, cut off, or has not `rows` rows."""
    if not path.exists():
        raise ArtifactError(f"{path}: this shard is missing")
    if not path.is_file():  # a pipe would be waited on for ever
        raise ArtifactError(f"{path}: this shard is not a regular file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        text = file.read(start) if start < size - 8 else b""
    try:
        head = dict(json.loads(text))
        head.pop("__metadata__", None)
        found = {name: _stored(entry, 8 + start) for name, entry in head.items()}
        end = max(stored.offset + stored.row_bytes * stored.shape[0] for stored in found.values())
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ArtifactError(f"{path}: this shard is cut off or damaged") from error
    if size != end:
        raise ArtifactError(f"{path}: this shard is cut off")
    for name, stored in found.items():
        if stored.shape[0] != rows:
            raise ArtifactError(f"{path}: holds {stored.shape[0]} rows of {name}, its manifest says {rows}")
    return found


def _stored(entry: Any, start: int) -> Stored:
    """What a head says of a tensor. Raises ValueError and its kin where that cannot be."""
    (begin, end), shape = entry["data_offsets"], tuple(entry["shape"])
    if not shape or not all(map(_is_count, (begin, end, *shape))):
        raise ValueError(f"offsets {begin} to {end} of shape {shape}")
    stored = Stored(DTYPES[entry["dtype"]], shape, start + begin)
    if end - begin != math.prod(shape) * stored.dtype.itemsize:
        raise ValueError(f"{end - begin} bytes of shape {shape}")
    return stored


def _open(files: Sequence[Path], number: int) -> _OpenFile:
    return _OpenFile(files[number])


class _OpenFile:
    """An open file that is closed when nobody holds it."""

    def __init__(self, path: Path):
        self.path, self._close = path, os.close
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, into: NDArray[np.uint8], offset: int) -> None:
        """Fill `into` with the bytes from `offset` on. Raises ArtifactError where the file ends before."""
        memory = into.data.cast("B")
        while memory:
            count = os.preadv(self.number, [memory], offset)
            if not count:
                raise ArtifactError(f"{self.path}: ends early; it was cut off while it was being read")
            memory, offset = memory[count:], offset + count

    def __del__(self) -> None:
        if hasattr(self, "number"):
            self._close(self.number)
