"""What stands in the store of a run that is killed again and again: how far it is, whether it equals another's."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LASTING = {
    "features": ("shards", "[0-9]*.json"),
    "semantic": ("checkpoints", "step-*"),
    "autoencoder": ("checkpoints", "step-*"),
    "latents": ("latents", "[0-9]*.json"),
    "diffusion": ("checkpoints", "step-*"),
    "sample": ("chunks", "*.safetensors"),
}
"""The phases in their order, and what each leaves that no kill undoes: a shard's record, a checkpoint, a chunk."""
TRAININGS = ("semantic", "autoencoder", "diffusion")
OF_THE_PROCESS = {"lock", "trackers", "curves.jsonl", "attempts.jsonl"}
"""What in a room tells of the processes that worked there."""
OF_THE_ATTEMPT = {"seconds"}
"""Keys of a stage's record that tell of the work of the last attempt."""


@dataclass(frozen=True)
class Store:
    """A folder of rooms, `names` being those of each phase; a recipe names its rooms alike wherever it runs."""

    path: Path
    names: dict[str, str]

    def room(self, phase: str) -> Path:
        """The room of a phase, which may not be there yet."""
        return self.path / phase / self.names[phase]

    def lasting(self, phase: str) -> dict[Path, int]:
        """What is safe of a phase, and when it was written."""
        return lasting(self.room(phase), phase)

    def done(self, phase: str) -> bool:
        """Whether a phase is complete."""
        room = self.room(phase)
        return (room / "DONE").exists() or any(room.glob("*/DONE"))

    def phase(self) -> str:
        """The phase that is under way."""
        return next((phase for phase in LASTING if not self.done(phase)), "evaluate")

    def saves(self, phase: str, files: int) -> bool:
        """Whether a phase is in the middle of a save: of a checkpoint, when `files` of its files are begun."""
        room = self.room(phase)
        folder = room / LASTING[phase][0]
        if phase in TRAININGS:
            return any(len(_names(folder / name)) >= files for name in _names(folder) if name.endswith(".part"))
        return any(name.endswith(".part") for name in (*_names(folder), *_names(room)))

    def writes(self, phase: str) -> bool:
        """Whether a file of a phase stands half-written, now that nobody writes it."""
        return phase in LASTING and any(self.room(phase).rglob(".*.part"))

    def progress(self) -> dict[str, dict[Path, int]]:
        """What is safe of every phase."""
        return {phase: self.lasting(phase) for phase in LASTING}

    def undone(self, before: dict[str, dict[Path, int]]) -> list[str]:
        """What of `before` was made a second time, a line each."""
        found = []
        for phase, old in before.items():
            now = self.lasting(phase)
            found += [f"{path} was written again" for path in old if path in now and now[path] != old[path]]
            if phase in TRAININGS and old:
                newest = max(old)
                found += [
                    f"{path} stands though {newest.name} did" for path in now if path < newest and path not in old
                ]
        return found


def _names(folder: Path) -> list[str]:
    """What a folder holds; nothing where it is not there, or no more."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def lasting(room: Path, phase: str) -> dict[Path, int]:
    """What is safe in a room, and when it was written."""
    folder, pattern = LASTING[phase]
    found = {}
    for name in fnmatch.filter(_names(room / folder), pattern):
        try:
            found[room / folder / name] = (room / folder / name).stat().st_mtime_ns
        except FileNotFoundError:
            continue  # pruned, or summed up in a manifest, meanwhile
    return found


def store_of(path: Path) -> Store:
    """The store of a finished run, which has one room a phase."""
    return Store(path, {phase: next((path / phase).iterdir()).name for phase in LASTING})


def contents(store: Path) -> dict[str, str]:
    """Every file of every room by name, with the hash of what it says of the result."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store)
        if not OF_THE_PROCESS & set(name.parts) and path.is_file():
            data = path.read_bytes()
            if path.name in ("DONE", "checkpoint.json"):
                data = json.dumps(_result(json.loads(data)), sort_keys=True).encode()
            found[str(name)] = hashlib.sha256(data).hexdigest()
    return found


def _result(record: Any) -> Any:
    if not isinstance(record, dict):
        return record
    return {key: _result(value) for key, value in record.items() if key not in OF_THE_ATTEMPT}


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """A line for each file that one lacks or that differs."""
    lines = [f"{name}: is not there" for name in wanted if name not in found]
    lines += [f"{name}: is left over" for name in found if name not in wanted]
    return lines + [f"{name}: differs" for name in wanted if name in found and found[name] != wanted[name]]
