"""Housekeeping of the store: which rooms there are, how large, used by whom; removing those that no run uses."""

from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from gaekit.pipeline.view import STORE, views
from gaekit.store.room import Room


@dataclass(frozen=True)
class StoredRoom:
    """A room as `gaekit store ls` shows it."""

    stage: str
    room: Room
    size: int
    complete: bool
    used_by: tuple[str, ...]


def stored_rooms(out: Path) -> list[StoredRoom]:
    """Every room under `out`/store, by stage and name."""
    users: dict[str, set[str]] = defaultdict(set)
    for view in views(out):
        for room in view.rooms():
            users[room].add(view.path.name)
    found = []
    for path in sorted((out / STORE).glob("*/*")) if (out / STORE).is_dir() else []:
        name = f"{STORE}/{path.parent.name}/{path.name}"
        complete = any(path.glob("DONE")) or any(path.glob("*/DONE"))
        found.append(StoredRoom(path.parent.name, Room(path), _size(path), complete, tuple(sorted(users[name]))))
    return found


def collect(out: Path, *, dry: bool = False) -> list[StoredRoom]:
    """Remove rooms that no run and no history refers to; returns them. A room in use by a process is kept:
    GaekitError."""
    gone = [stored for stored in stored_rooms(out) if not stored.used_by]
    for stored in gone:
        if not dry:
            with stored.room.lock():
                shutil.rmtree(stored.room.path)
    return gone


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
