"""Whether a latent cache is still what was written, and taking out of it what is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gaekit.data.latents import INDEX, LABEL, TrainingLatents, fault_of_head
from gaekit.errors import ArtifactError
from gaekit.store.files import sha256_file
from gaekit.store.room import Room
from gaekit.store.shard_reader import MANIFEST, ShardReader, read_head, read_manifest
from gaekit.store.shards import reopen
from gaekit.waiting import progress


@dataclass(frozen=True)
class Damage:
    """A file of a cache that is not what was written, and in what."""

    file: str
    what: str


def verify_cache(folder: Path) -> Iterator[Damage]:
    """Everything that is wrong with a finished cache of latents (or of teacher features): the manifest's facts, and of
    each shard its presence, length, sha256, shapes, types and labels. Reads every byte."""
    try:
        facts = read_manifest(folder)
        if holds_latents(facts):
            _Manifest(folder, facts)
    except ArtifactError as error:
        yield Damage(MANIFEST, _without(folder, error))
        return
    held = sum(record["rows"] for record in facts["shards"])
    if held != facts["rows"]:
        yield Damage(MANIFEST, f"says {facts['rows']} rows, and its shards have {held}")
    for record in progress(facts["shards"], "reading shards", len(facts["shards"]), "shards"):
        if record["rows"] and (fault := _fault(folder, record, facts)):
            yield Damage(record["file"], fault)


def holds_latents(facts: dict[str, Any]) -> bool:
    """Whether a manifest is of latents, and not of a teacher's features."""
    return facts.get("holds") != "teacher features"


def _fault(folder: Path, record: dict[str, Any], facts: dict[str, Any]) -> str | None:
    path = folder / record["file"]
    try:
        head = read_head(path, record["rows"])
    except ArtifactError as error:
        return _without(folder, error)
    if sha256_file(path) != record["sha256"]:
        return "its bytes are not those that were written (sha256)"
    if not holds_latents(facts):
        return None
    if fault := fault_of_head(head, facts):
        return fault
    reader, everything = ShardReader(folder, {"rows": record["rows"], "shards": [record]}), torch.arange(record["rows"])
    label, index, known = reader.rows(LABEL, everything), reader.rows(INDEX, everything), max(1, len(facts["classes"]))
    if int(label.min()) < 0 or int(label.max()) >= known:
        return f"labels {int(label.min())} to {int(label.max())}, and the manifest knows {known} classes"
    first, stop = record.get("span", (int(index[0]), int(index[-1]) + 1))
    if bool((index.diff() <= 0).any()) or int(index[0]) < first or int(index[-1]) >= stop:
        return f"images out of order, or not of [{first}, {stop})"
    return None


def mend_cache(folder: Path) -> list[Damage]:
    """Remove what is damaged, so that the run or the import that made the cache writes it, and nothing else, again.

    Returns what was removed. Raises GaekitError while a run uses the cache's room.
    """
    room = Room(folder.resolve().parent)  # a run's folder leads to its rooms by links
    ours = (room.path / "stage.json").exists()
    with room.lock() if ours else nullcontext():
        damage = list(verify_cache(folder))
        if damage:
            if ours:
                (room.path / "DONE").unlink(missing_ok=True)
            try:
                read_manifest(folder)
            except ArtifactError:  # nothing says any more what the shards ought to be
                (folder / MANIFEST).unlink(missing_ok=True)
            else:
                reopen(folder, {found.file for found in damage} - {MANIFEST})
    return damage


def _without(folder: Path, error: Exception) -> str:
    """A message about a file, less its name, which is said already."""
    return str(error).removeprefix(str(folder)).lstrip("/").partition(": ")[2] or str(error)


class _Manifest(TrainingLatents):
    """What a manifest says, checked as it is for training."""

    def __len__(self) -> int:
        return int(self.facts["rows"])

    def training(self, *_: Any, **__: Any) -> Iterator[Any]:
        raise TypeError("a manifest has no batches")
