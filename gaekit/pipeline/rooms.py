"""Housekeeping of the store: which rooms there are, how large, used by whom; removing those that no run uses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gaekit.errors import ArtifactError
from gaekit.pipeline.view import STORE, views
from gaekit.store.room import Room, RoomInUse


@dataclass(frozen=True)
class StoredRoom:
    """A room as `gaekit store ls` shows it."""

    stage: str
    room: Room
    size: int
    complete: bool
    used_by: tuple[str, ...]

    @property
    def name(self) -> str:
        """The room relative to the folder of all runs."""
        return f"{STORE}/{self.stage}/{self.room.path.name}"


def stored_rooms(out: Path, *, say: Callable[[str], None] | None = None) -> list[StoredRoom]:
    """Every room under `out`/store, by stage and name. What is a link, or does not look like a room, is none.

    Raises ArtifactError for a run whose record is damaged, or tells `say` of it and counts none of its rooms as used.
    """
    users = users_of_rooms(out, say=say)
    return [_stored(room, users) for room in _rooms(out / STORE)]


def users_of_rooms(out: Path, *, say: Callable[[str], None] | None = None) -> dict[str, set[str]]:
    """The names of the runs that need each room, by its name relative to `out`. Damaged records as in
    `stored_rooms`."""
    users: dict[str, set[str]] = defaultdict(set)
    for view in views(out):
        try:
            for room in view.rooms():
                users[room].add(view.path.name)
        except ArtifactError as error:
            if say is None:
                raise
            say(str(error))
    return users


def collect(out: Path, *, dry: bool = False, say: Callable[[str], None] = lambda line: None) -> list[StoredRoom]:
    """Remove rooms that no run and no history refers to; returns them. One in which a process works is spared, which
    `say` is told. Raises ArtifactError, with nothing removed, where a run's record cannot be read: it may need any."""
    gone = []
    for stored in stored_rooms(out):
        if stored.used_by:
            continue
        holder = stored.room.holder() if dry else _remove(stored, out)
        if holder is None:
            gone.append(stored)
        elif holder:
            say(f"{stored.stage}/{stored.room.path.name}  spared: in use by {holder}")
    return gone


def _remove(stored: StoredRoom, out: Path) -> str | None:
    """Remove a room, unless a process holds it: its name; or a run has begun to use it: ""."""
    try:
        with stored.room.lock():
            if users_of_rooms(out).get(stored.name):
                return ""
            stored.room.remove()
    except RoomInUse as busy:
        return busy.holder
    return None


def _rooms(store: Path) -> Iterator[Room]:
    stages = sorted(path for path in store.iterdir() if _is_folder(path)) if store.is_dir() else []
    for stage in stages:
        yield from (room for path in sorted(stage.iterdir()) if (room := Room(path)).is_one)


def _stored(room: Room, users: dict[str, set[str]]) -> StoredRoom:
    path = room.path
    complete = any(path.glob("DONE")) or any(path.glob("*/DONE"))
    used = users.get(f"{STORE}/{path.parent.name}/{path.name}", ())
    return StoredRoom(path.parent.name, room, size_of(path), complete, tuple(sorted(used)))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def size_of(path: Path) -> int:
    """Bytes of the files under a folder, links not followed."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
