"""runs/<name>.sweep/: what a sweep keeps beside its runs. `sweep.yaml` says what it is, `members/<run>/` holds each
run's lock, log and how it ended, the rest are its results. It is no run, and nothing in it is needed by one.

Whoever makes a run of the sweep holds that run's lock, as rooms are held: several processes, on several machines of one
disk, may work on a sweep at the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError, GaekitError
from gaekit.inside import require_regular
from gaekit.pipeline.view import RECORD
from gaekit.recipe import to_yaml
from gaekit.store.files import read_json, write_json, write_text
from gaekit.store.room import Room, RoomInUse
from gaekit.sweeps.definition import Definition

DEFINITION, LOG, OUTCOME, MEMBERS, HISTORY = "sweep.yaml", "log.txt", "outcome.json", "members", "history"
CURVES = "curves"
"""The folder of reference curves, a file a setting."""
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Claim:
    """The place of one run in a sweep's folder."""

    room: Room

    @property
    def log(self) -> Path:
        """What the run has told, of all attempts."""
        return self.room.path / LOG

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How the last attempt that came to an end did so: {"code", "ended", "by"}. Raises ArtifactError where that is
        damaged."""
        file = self.room.path / OUTCOME
        if not file.exists():
            return None
        found = read_json(file)
        if not isinstance(found, dict) or not isinstance(found.get("code"), int):
            raise ArtifactError(f'{file}: damaged: expected {{"code": ...}}; remove it, and the run is made again')
        return found

    def end(self, outcome: dict[str, Any]) -> None:
        """Write how an attempt ended; by the process that holds the run."""
        write_json(self.room.path / OUTCOME, outcome)


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep, `<out>/<name>.sweep`."""

    path: Path

    @classmethod
    def of(cls, name: str, out: Path) -> SweepFolder:
        """That of a sweep of this name. Raises GaekitError where a run bears the folder's name."""
        path = out / f"{name}.sweep"
        if (path / RECORD).exists():
            raise GaekitError(f"{path}: is a run, so no sweep can be called '{name}'; give one of the two another name")
        return cls(path)

    def claim(self, label: str) -> Claim:
        """The place of the run of this label."""
        return Claim(Room(self.path / MEMBERS / label))

    def describe(self, definition: Definition) -> None:
        """Write what the sweep is, so that it can be run by this file too. Results of another sweep of the same name
        move to history/."""
        text = to_yaml(_as_run(definition, self.path))
        with self._held():
            file = self.path / DEFINITION
            if file.exists() and require_regular(file, "a sweep").read_text(encoding="utf-8") != text:
                self._archive()
            write_text(file, text)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the folder, for the moment in which it is described; the lock lies where no run writes."""
        while True:
            try:
                with Room(self.path / HISTORY).lock():
                    yield
                    return
            except RoomInUse:
                time.sleep(LOOK_SECONDS)

    def _archive(self) -> None:
        history = self.path / HISTORY
        number = 1 + max((int(p.name) for p in history.iterdir() if p.name.isdecimal()), default=0)
        target = history / f"{number:04d}"
        target.mkdir()
        for item in list(self.path.iterdir()):
            if item.is_file() or item.name == CURVES:
                item.rename(target / item.name)


def _as_run(definition: Definition, folder: Path) -> Any:
    """The sweep's file as it is run: with what `--set` added, and the recipe's path seen from the sweep's folder."""
    recipe = definition.recipe
    if Path(recipe).is_file():
        recipe = os.path.relpath(recipe, folder)
        recipe = recipe if os.sep in recipe else f".{os.sep}{recipe}"
    changes = {change.key: change.value for change in definition.common}
    return definition.file.model_copy(update={"recipe": recipe, "changes": changes})
