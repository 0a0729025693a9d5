"""A room: the folder of one stage under one fingerprint, `runs/store/<stage>/<fingerprint>/`.

It holds `stage.json` (what decides the result), `checkpoints/`, `curves.jsonl`, `trackers/`, `profile/`,
`attempts.jsonl`, the stage's outputs, `DONE` and a lock.
A training without a horizon can be prolonged: its outputs stand in a folder named after their step, and where it is
shorter than one before it, its checkpoints and curves too.

What is complete never changes and is read without the lock. Who writes holds it. A store may be shared with others:
nothing in a room that is a link is written or removed through.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from gaekit.errors import GaekitError
from gaekit.store.attempts import ATTEMPTS, Attempt, killed, read_attempts
from gaekit.store.curves import CURVES, read_curves
from gaekit.store.files import disk_full_is_named, file_system, human_duration, read_json, write_json

LOCK, FACTS, DONE = "lock", "stage.json", "DONE"


class RoomInUse(GaekitError):
    """Another process holds the lock of a room; `holder` says which, and since when."""

    def __init__(self, room: Path, holder: str):
        self.holder = holder
        super().__init__(f"{room}: in use by {holder}; wait until it has finished, or stop it and run this again")


@dataclass(frozen=True)
class Room:
    """A stage's folder. `subfolder` is "" or "step-<n>", the part of it that holds the outputs."""

    path: Path
    subfolder: str = ""

    @property
    def out(self) -> Path:
        """Where the outputs of this subfolder stand."""
        return self.path / self.subfolder

    @property
    def checkpoints(self) -> Path:
        """Where a training saves itself: the room's folder, which lengths share, or that of this length alone."""
        return (self.out if self.is_apart else self.path) / "checkpoints"

    @property
    def curves(self) -> Path:
        """The file of every scalar that a training logged (`gaekit.store.curves`)."""
        return (self.out if self.is_apart else self.path) / CURVES

    @property
    def trackers(self) -> Path:
        """Where trackers write, each into a folder of its name."""
        return (self.out if self.is_apart else self.path) / "trackers"

    @property
    def attempts(self) -> Path:
        """The file of what each attempt at the stage took, at any length (`gaekit.store.attempts`)."""
        return self.path / ATTEMPTS

    @property
    def profile(self) -> Path:
        """Where `runtime.profile` writes traces of a training's steps."""
        return (self.out if self.is_apart else self.path) / "profile"

    @property
    def is_apart(self) -> bool:
        """Whether this length is trained beside a longer one, whose checkpoints and curves stay as they are."""
        return bool(self.subfolder) and (self.out / "checkpoints").is_dir()

    def ended_attempts(self) -> list[Attempt]:
        """What each attempt took, for one who knows that no process works here. Raises ArtifactError where that, or the
        curves, cannot be read."""
        found = read_attempts(self.attempts)
        if not any(attempt.outcome == "running" for attempt in found):
            return found
        curves = Room(self.path, f"step-{found[-1].length}" if found[-1].apart else "").curves
        steps, seen = read_curves(curves).seconds, None
        if steps:
            seen = datetime.fromtimestamp(curves.stat().st_mtime, UTC)
        last = steps[-1][0] if steps else None
        return [killed(a, last, seen) if a.outcome == "running" else a for a in found]

    def done(self) -> dict[str, Any] | None:
        """The record that the stage left when it was complete, or None."""
        file = self.out / DONE
        return read_json(file) if file.exists() else None

    def finish(self, record: dict[str, Any]) -> None:
        """Declare the outputs complete; call it last."""
        write_json(self.out / DONE, record)

    def describe(self, facts: dict[str, Any]) -> None:
        """Write what decides this room's result, for people, beside it."""
        write_json(self.path / FACTS, facts)

    @property
    def is_one(self) -> bool:
        """Whether the folder looks like a room: it says what decides its result, or is still empty but for a lock."""
        if self.path.is_symlink() or not self.path.is_dir():
            return False
        facts, within = self.path / FACTS, self.path.rglob("*")
        return (facts.is_file() and not facts.is_symlink()) or all(
            item.name == LOCK or (item.is_dir() and not item.is_symlink()) for item in within
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the room for this process; the lock ends with the process, however that ends, and whatever children of
        it live on. What a killed one left half-written is removed.

        Raises RoomInUse if another holds it, and GaekitError where there is a link in the room, where its lock is
        something else, or where the disk has no locks.
        """
        file = self._take_lock()
        # A process forked meanwhile, such as one that decodes, would hold the lock on after this one was killed.
        os.register_at_fork(after_in_child=file.close)
        with file:
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat()}")
            file.truncate()
            file.flush()
            self._sweep()
            yield

    def holder(self) -> str | None:
        """Who holds the room, "" where that is not known; None if nobody does. Changes nothing."""
        if not (self.path / LOCK).exists():
            return None
        with _open_lock(self.path / LOCK) as file:
            try:
                _lock(file, self.path)
            except RoomInUse as busy:
                return busy.holder
        return None

    def is_held(self) -> bool:
        """Whether a process holds the room, as far as this user can tell; for who only looks, even at what he may not
        write."""
        try:
            handle = os.open(self.path / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:  # a disk without locks: nothing can hold a room there
            return False
        finally:
            os.close(handle)
        return False

    def remove(self) -> None:
        """Remove the room, whose lock this process holds. At no moment does a half of it look complete, or no more
        like a room: what a kill leaves can be removed later."""
        for done in (self.path / DONE, *self.path.glob(f"*/{DONE}")):
            done.unlink(missing_ok=True)
        last = (FACTS, LOCK)
        for item in (*(p for p in self.path.iterdir() if p.name not in last), *(self.path / name for name in last)):
            remove(item)
        self.path.rmdir()

    def _take_lock(self) -> IO[str]:
        """The room's lock file, locked."""
        while True:
            self._refuse_links()
            with disk_full_is_named(self.path):
                self.out.mkdir(parents=True, exist_ok=True)
                file = _open_lock(self.path / LOCK)
            try:
                _lock(file, self.path)
                if _is_still(file, self.path / LOCK):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()  # who held it has removed the room

    def _refuse_links(self) -> None:
        folders = [self.path, self.out] if self.subfolder else [self.path]
        within = (item for folder in folders if folder.is_dir() for item in folder.iterdir())
        for path in (self.path.parent, *folders, *within):
            if path.is_symlink():
                raise GaekitError(
                    f"{path}: is a link, and nothing is written through a link in a store (the folder `store` itself "
                    f"may be one); put in its place what it leads to, or remove it"
                )

    def _sweep(self) -> None:
        for folder, names, files in os.walk(self.path):
            for name in [*names, *files]:
                if name.startswith(".") and name.endswith(".part"):
                    remove(Path(folder, name))
                    names[:] = [other for other in names if other != name]


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link and not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_lock(path: Path) -> IO[str]:
    """Open a lock file, made if need be. Raises GaekitError where something else bears its name: nothing is written
    into that."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_a_lock(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_a_lock(path)
    file = os.fdopen(handle, "r+", encoding="utf-8", errors="replace")
    if (text := file.read(300)) and not text.startswith("process "):
        file.close()
        raise _not_a_lock(path)
    file.seek(0)
    return file


def _not_a_lock(path: Path) -> GaekitError:
    return GaekitError(f"{path}: is no lock of gaekit's but something else (a link, a folder, another file); remove it")


def _lock(file: IO[str], room: Path) -> None:
    """Raises RoomInUse where another process has locked the file, GaekitError where the disk has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise RoomInUse(room, _holder(file)) from None
    except OSError as error:
        raise GaekitError(
            f"{room}: this disk ({file_system(room)}) has no file locks ({error.strerror}), and without them two runs "
            "could write into one room; give --out a local disk, or have the disk mounted with locks (NFS: without "
            "`nolock`; Lustre: with `flock`)"
        ) from error


def _holder(file: IO[str]) -> str:
    """What the lock's holder wrote into it, and for how long it has had it."""
    file.seek(0)
    found = re.fullmatch(r"(process \d+ on [\w.-]+) since (\S+)", file.read(300).strip())
    try:
        since = datetime.fromisoformat(found[2]).timestamp() if found else None
    except ValueError:
        since = None
    if found is None or since is None:
        return "another process"
    return f"{found[1]} for {human_duration(max(0, round(time.time() - since)))}"


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether an open file still bears its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False
