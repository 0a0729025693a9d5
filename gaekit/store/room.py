"""A room: the folder of one stage under one fingerprint, `runs/store/<stage>/<fingerprint>/`.

It holds `stage.json` (what decides the result), `checkpoints/`, `tensorboard/`, the stage's outputs, `DONE` and a lock.
A training without a horizon can be prolonged: its outputs stand in a folder named after their step.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gaekit.errors import GaekitError
from gaekit.store.files import disk_full_is_named, read_json, write_json

_LOCKS: set[IO[str]] = set()
"""The lock files that this process holds open."""


def _let_go() -> None:
    """In a process just forked, such as one that decodes: a lock ends with the process that took it, however long its
    children outlive it."""
    for file in _LOCKS:
        file.close()
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go)


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
        """Where a training saves itself."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Where the trackers write."""
        return self.path / "tensorboard"

    def done(self) -> dict[str, Any] | None:
        """The record that the stage left when it was complete, or None."""
        file = self.out / "DONE"
        return read_json(file) if file.exists() else None

    def finish(self, record: dict[str, Any]) -> None:
        """Declare the outputs complete; call it last."""
        write_json(self.out / "DONE", record)

    def describe(self, facts: dict[str, Any]) -> None:
        """Write what decides this room's result, for people, beside it."""
        write_json(self.path / "stage.json", facts)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the room for this process; ends with the process, however it ends. What a killed one left half-written
        is removed. Raises GaekitError if it is held."""
        with disk_full_is_named(self.path):
            self.out.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise GaekitError(
                    f"{self.path}: in use by {holder}; wait until it has finished, or stop it and run this again"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            _LOCKS.add(file)
            try:
                self._sweep()
                yield
            finally:
                _LOCKS.discard(file)

    def _sweep(self) -> None:
        for left in [*self.path.rglob(".*.part")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
