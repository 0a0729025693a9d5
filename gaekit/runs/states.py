"""How a run and its stages stand, as their files tell: no plugin, no torch, and no lock is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gaekit.pipeline.view import View
from gaekit.store.attempts import read_attempts
from gaekit.store.curves import Curves, read_curves
from gaekit.store.record import STAGE_NAMES
from gaekit.store.room import FACTS, Room

State = Literal["done", "running", "stopped", "failed"]
StageState = Literal["done", "cached", "from", "running", "stopped", "failed", "pending"]


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    state: done by this run; cached, by an earlier one; from, taken from elsewhere; running, a process holds its room;
    stopped, begun and left; failed, for the `problem`; pending. seconds: how long its training took, or None. record:
    what it left when it was complete (steps, sizes, counts). room: its folder, in a packed run its part of that; None
    where it is taken from elsewhere.
    """

    name: str
    state: StageState
    seconds: float | None
    record: Mapping[str, Any]
    room: Room | None
    problem: str | None = None

    @property
    def curves(self) -> Curves:
        """Every scalar that its training logged, of a room that lengths share up to this one's end. Raises
        ArtifactError where the file is damaged."""
        if self.room is None:
            return Curves()
        length = self.room.subfolder.removeprefix("step-")
        return read_curves(self.room.curves, int(length) if length else None)


def stages_of(view: View) -> dict[str, Stage]:
    """The stages of a run by name, in order. Raises ArtifactError where the record is damaged."""
    entries = view.record["stages"]
    return {name: _stage(name, entries[name], view.path) for name in STAGE_NAMES if name in entries}


def state_of(record: Mapping[str, Any], stages: Mapping[str, Stage]) -> State:
    """How the run as a whole stands."""
    if record.get("finished") is not None:
        return "done"
    states = {stage.state for stage in stages.values()}
    return "failed" if "failed" in states else "running" if "running" in states else "stopped"


def _stage(name: str, entry: Mapping[str, Any], run: Path) -> Stage:
    room: Room | None = None
    if entry["room"] is not None:
        room = Room(run.parent / entry["room"], entry["subfolder"])
    elif entry["status"] != "from" and (run / name).is_dir():
        room = Room(run / name)
    state, record, problem = _state(entry, room)
    seconds = record.get("seconds")
    return Stage(name, state, float(seconds) if isinstance(seconds, int | float) else None, record, room, problem)


def _state(entry: Mapping[str, Any], room: Room | None) -> tuple[StageState, Mapping[str, Any], str | None]:
    """A stage's state, record and problem: of one that was pending when the run last wrote, as its room stands now."""
    record = entry.get("record") or {}
    if entry["status"] in ("done", "cached", "from"):
        return entry["status"], record, None
    if room is None:
        return "pending", record, None
    if (done := room.done()) is not None:
        return "cached", done, None
    if room.is_held():
        return "running", record, None
    attempts = read_attempts(room.attempts)
    failed = entry["status"] == "failed" or (attempts and attempts[-1].outcome == "failed")
    if failed:
        return "failed", record, attempts[-1].error if attempts else None
    return "stopped" if (room.path / FACTS).exists() else "pending", record, None
