"""Sharded tensors: safetensors files of rows and a manifest with their hashes, written once, read by memory map."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.store.files import atomic, read_json, sha256_file, write_json

MANIFEST = "manifest.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64, "U8": torch.uint8}
Rows = dict[str, Tensor]


class ShardWriter:
    """Writes rows of named tensors in shards of `rows`; a second writer on the same folder goes on after the last
    whole shard."""

    def __init__(self, folder: Path, rows: int):
        self.folder, self.rows = folder, rows
        folder.mkdir(parents=True, exist_ok=True)
        self.shards: list[dict[str, Any]] = self._whole_shards()
        self._pending: list[Rows] = []

    @property
    def written(self) -> int:
        """Rows on disk already."""
        return sum(shard["rows"] for shard in self.shards)

    @property
    def next_index(self) -> int:
        """Where to go on: one past the last `index` on disk, for rows that carry their index."""
        return int(self.shards[-1]["next"]) if self.shards else 0

    def _whole_shards(self) -> list[dict[str, Any]]:
        if (self.folder / MANIFEST).exists():
            return list(read_json(self.folder / MANIFEST)["shards"])
        found: list[dict[str, Any]] = []
        while (record := self.folder / f"{len(found):05d}.json").exists():
            found.append(read_json(record))
        return found

    def add(self, rows: Rows) -> None:
        """Append rows: tensors whose first dimension is the row. Batches may be of any size."""
        self._pending.append({k: v.detach().cpu() for k, v in rows.items()})
        while self._waiting() >= self.rows:
            self._flush(self.rows)

    def _waiting(self) -> int:
        return sum(len(next(iter(rows.values()))) for rows in self._pending)

    def _flush(self, count: int) -> None:
        joined = {name: torch.cat([rows[name] for rows in self._pending]) for name in self._pending[0]}
        head = {name: value[:count].contiguous().clone() for name, value in joined.items()}
        rest = {name: value[count:] for name, value in joined.items()}
        self._pending = [rest] if len(next(iter(rest.values()))) else []
        index = len(self.shards)
        file = self.folder / f"{index:05d}.safetensors"
        with atomic(file) as part:
            save_file(head, part)
        record = {"file": file.name, "rows": count, "sha256": sha256_file(file)}
        if "index" in head:
            record["next"] = int(head["index"][-1]) + 1
        write_json(self.folder / f"{index:05d}.json", record)
        self.shards.append(record)

    def reader(self) -> ShardReader:
        """Write the last rows; read all of them, before `finish`."""
        if self._waiting():
            self._flush(self._waiting())
        return ShardReader(self.folder, {"rows": self.written, "shards": self.shards})

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the last rows and the manifest: `facts` beside the shards' names, rows and hashes."""
        if self._waiting():
            self._flush(self._waiting())
        write_json(self.folder / MANIFEST, {**facts, "rows": self.written, "shards": self.shards})
        for record in self.folder.glob("[0-9]*.json"):
            record.unlink()


class ShardReader:
    """Rows of a finished folder, by memory map: memory does not grow with the cache."""

    def __init__(self, folder: Path, facts: dict[str, Any] | None = None):
        self.folder = folder
        if facts is None and not (folder / MANIFEST).exists():
            raise ArtifactError(f"{folder}: no {MANIFEST}; the cache is absent or was not finished")
        self.facts: dict[str, Any] = facts or read_json(folder / MANIFEST)
        self._maps = [_map_file(folder / shard["file"], shard["rows"]) for shard in self.facts["shards"]]
        self._starts = torch.tensor([0, *(shard["rows"] for shard in self.facts["shards"])]).cumsum(0)

    def __len__(self) -> int:
        return int(self.facts["rows"])

    def rows(self, name: str, indices: Tensor) -> Tensor:
        """The named rows in the order of `indices` (int64)."""
        shard_of = torch.bucketize(indices, self._starts[1:], right=True)
        out: Tensor | None = None
        for shard in sorted(set(shard_of.tolist())):
            at = (shard_of == shard).nonzero().squeeze(1)
            picked = self._maps[shard][name][indices[at] - self._starts[shard]]
            if out is None:
                out = picked.new_empty((len(indices), *picked.shape[1:]))
            out[at] = picked
        if out is None:
            raise ValueError("no index given")
        return out

    def shards(self, name: str) -> Iterator[Tensor]:
        """The named tensor, a shard at a time."""
        for shard in self._maps:
            yield shard[name]

    def verify(self) -> list[str]:
        """Names of shards whose bytes are not those that were written."""
        return [s["file"] for s in self.facts["shards"] if sha256_file(self.folder / s["file"]) != s["sha256"]]


def _map_file(path: Path, rows: int) -> Rows:
    """Tensors of a safetensors file as views of its memory map. Raises ArtifactError if it is absent or cut off."""
    if not path.exists():
        raise ArtifactError(f"{path}: this shard is missing; remove its folder and run again to rebuild")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        if size < 8 + start:
            raise ArtifactError(f"{path}: this shard is cut off; remove its folder and run again to rebuild")
        head = json.loads(file.read(start))
    head.pop("__metadata__", None)
    if size != 8 + start + max(entry["data_offsets"][1] for entry in head.values()):
        raise ArtifactError(f"{path}: this shard is cut off; remove its folder and run again to rebuild")
    storage = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), False, size))
    tensors = {}
    for name, entry in head.items():
        dtype = DTYPES[entry["dtype"]]
        first, last = entry["data_offsets"]
        flat = torch.empty(0, dtype=torch.uint8).set_(storage, 8 + start + first, (last - first,), (1,))
        tensors[name] = flat.view(dtype).view(entry["shape"])
        if len(tensors[name]) != rows:
            raise ArtifactError(f"{path}: holds {len(tensors[name])} rows of {name}, its manifest says {rows}")
    return tensors


class Moments:
    """Mean and standard deviation per channel, streamed in float64 by Chan's update; (B, C, H, W) batches of any
    size."""

    def __init__(self, channels: int):
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, batch_BCHW: Tensor) -> None:
        """Take in a batch."""
        values = batch_BCHW.detach().double().cpu().transpose(0, 1).flatten(1)
        count, mean = values.shape[1], values.mean(1)
        delta, total = mean - self.mean, self.count + values.shape[1]
        self.squares += (values - mean[:, None]).square().sum(1) + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    @property
    def std(self) -> Tensor:
        """Population standard deviation."""
        return (self.squares / self.count).sqrt()


def moments_of(batches: Iterable[Tensor], channels: int) -> Moments:
    """Moments over an iterable of batches."""
    moments = Moments(channels)
    for batch in batches:
        moments.add(batch)
    return moments
