"""Sharded rows of tensors: a safetensors file for each span of indices, and a manifest with their hashes.

Written once, by any number of processes; read a row at a time, so that memory does not grow with the cache.
"""

from __future__ import annotations

import re
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gaekit.errors import ArtifactError, MachineFailed
from gaekit.parallel import World
from gaekit.store.files import atomic, human_size, is_full_text, read_json, sha256_file, write_json
from gaekit.store.shard_reader import MANIFEST, ShardReader, fault_of_record, read_manifest, shard_name

INDEX = "index"
"""The tensor that says which index of the whole each row is."""
Rows = dict[str, Tensor]
Record = dict[str, Any]
Measure = Callable[[Rows], Any]


class ShardWriter:
    """Writes rows of named tensors, one of them their `index` in [0, total): shard i holds what there is of the span
    [i * rows, (i + 1) * rows), and has no file where there is nothing.

    Rank r of n writes shards r, r + n, ...; a later writer on the same folder, of any number of ranks, goes on with
    the shards that are not there whole. It is a context: a thread writes, so that the next rows are made meanwhile, and
    on leaving all that this rank writes is on disk. What the thread finds by `measure` in a shard's rows, as JSON, is
    kept until `finish`. Raises MachineFailed where the disk is full.
    """

    def __init__(self, folder: Path, rows: int, total: int, world: World | None = None, measure: Measure | None = None):
        world = world or World()
        self._measure = measure
        self.folder, self.rows, self.total = folder, rows, total
        folder.mkdir(parents=True, exist_ok=True)
        kept = _records(folder)
        mine = range(world.rank, self._count, world.size)
        self.missing = [span for i in mine if not _is_whole(folder, span := self._span(i), kept.get(i))]
        """The spans of indices that this rank has to write, in the order in which `add` wants them."""
        self._todo = deque(self.missing)
        self._filling: Rows = {}
        self._filled = 0
        self._thread = ThreadPoolExecutor(1, "shards")
        self._writing: Future[None] | None = None

    @property
    def _count(self) -> int:
        return -(-self.total // self.rows)

    def _span(self, number: int) -> range:
        return range(number * self.rows, min((number + 1) * self.rows, self.total))

    def add(self, rows: Rows) -> None:
        """Take in rows of one span, on any device: tensors whose first dimension is the row."""
        first = int(rows[INDEX][0])
        while first not in self._todo[0]:
            self._flush()
        span, count = self._todo[0], len(rows[INDEX])
        if not self._filling:
            self._filling = {k: v.new_empty((len(span), *v.shape[1:]), device="cpu") for k, v in rows.items()}
        for name, value in rows.items():
            self._filling[name][self._filled : self._filled + count] = value.detach()
        self._filled += count
        if self._filled == len(span):
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._todo:
                self._flush()
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown()

    def _flush(self) -> None:
        """Hand the rows of the first span to the thread; where it still writes the ones before, wait for it."""
        self._wait()
        span, rows = self._todo.popleft(), {name: value[: self._filled] for name, value in self._filling.items()}
        self._filling, self._filled = {}, 0
        self._writing = self._thread.submit(self._write, span, rows, 1 + len(self._todo))

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, span: range, rows: Rows, left: int) -> None:
        number = span.start // self.rows
        record: Record = {"file": None, "span": [span.start, span.stop], "rows": 0, "bytes": 0, "sha256": None}
        if rows:
            file = self.folder / shard_name(number)
            with atomic(file) as part:
                _save(rows, part, left)
            record |= {"file": file.name, "rows": len(rows[INDEX]), "bytes": file.stat().st_size}
            record["sha256"] = sha256_file(file)
            if self._measure is not None:
                record["measured"] = self._measure(rows)
        write_json(self.folder / f"{number:05d}.json", record)

    @property
    def written(self) -> int:
        """Rows on disk, of all ranks; call it when all have left the context."""
        return sum(record["rows"] for record in self._shards())

    def _shards(self) -> list[Record]:
        found = _records(self.folder)
        return [found[number] for number in range(self._count)]

    def measured(self) -> list[Any]:
        """What `measure` found in each shard that has rows, of all ranks, in order; shards of an earlier manifest are
        measured now."""
        if self._measure is None:
            return []
        found = []
        for record in self._shards():
            if "measured" in record:
                found.append(record["measured"])
            elif record["rows"]:
                one = ShardReader(self.folder, {"rows": record["rows"], "shards": [record]})
                found.append(self._measure({name: next(one.shards(name)) for name in one.heads[0]}))
        return found

    def reader(self) -> ShardReader:
        """The rows of all ranks, before `finish`; call it when all have left the context."""
        return ShardReader(self.folder, {"rows": self.written, "shards": self._shards()})

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the manifest: `facts` beside the shards' names, spans, rows and hashes. One rank does, at the end."""
        shards = [{key: value for key, value in record.items() if key != "measured"} for record in self._shards()]
        write_json(self.folder / MANIFEST, {**facts, "rows": self.written, "shards": shards})
        for leftover in (*self.folder.glob("[0-9]*.json"), *self.folder.glob(".*.part")):
            leftover.unlink()


def reopen(folder: Path, damaged: set[str]) -> None:
    """Make a finished folder an unfinished one without its `damaged` files, which a writer then writes again."""
    for number, record in enumerate(read_manifest(folder)["shards"]):
        if record["file"] not in damaged:
            write_json(folder / f"{number:05d}.json", record)
    (folder / MANIFEST).unlink()
    for name in damaged:
        (folder / name).unlink(missing_ok=True)


def _records(folder: Path) -> dict[int, Record]:
    """What is known of each shard: from the manifest, or from the records of those written since."""
    found: dict[int, Record] = {}
    if (folder / MANIFEST).exists():
        found.update(enumerate(read_manifest(folder)["shards"]))
    for file in folder.glob("[0-9]*.json"):
        if re.fullmatch(r"[0-9]{5,9}\.json", file.name):
            record = read_json(file)
            if fault := fault_of_record(record, int(file.stem)):
                raise ArtifactError(f"{file}: damaged ({fault}); remove it, and its shard is written again")
            found[int(file.stem)] = record
    return found


def _is_whole(folder: Path, span: range, record: Record | None) -> bool:
    if record is None or record.get("span") != [span.start, span.stop]:
        return False
    file = folder / record["file"] if record["file"] else None
    return file is None or (file.is_file() and file.stat().st_size == record["bytes"])


def _save(rows: Rows, path: Path, left: int) -> None:
    """Write a safetensors file. Raises MachineFailed that says what this and the `left - 1` after it need."""
    needed = sum(value.nbytes for value in rows.values())
    try:
        if shutil.disk_usage(path.parent).free > needed:
            save_file(rows, path)
            return
        cause: Exception | None = None
    except SafetensorError as error:
        if not is_full_text(str(error)):
            raise
        cause = error
    free = shutil.disk_usage(path.parent).free
    raise MachineFailed(
        f"{path.parent}: the disk is full: {left} more shards need about {human_size(left * needed)}, and "
        f"{human_size(free)} are free; free some space and run the same command again"
    ) from cause
