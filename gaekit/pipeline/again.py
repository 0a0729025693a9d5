"""`--redo` and `--fresh`: a stage and all that is made from it from the beginning, whatever was there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from gaekit.errors import GaekitError
from gaekit.pipeline.generations import RoomChooser, begin_next, rooms_of_run
from gaekit.pipeline.plan import Plan
from gaekit.pipeline.rooms import size_of, users_of_rooms
from gaekit.pipeline.view import STORE, View
from gaekit.store.files import human_size
from gaekit.store.room import Room, remove

FAILED = "failed"
"""The status of a stage whose training ended in RunFailed."""


@dataclass(frozen=True)
class Again:
    """The stage that is to be begun again. With `discard` what was not finished of it, and its checkpoints, go."""

    stage: str
    discard: bool = False

    @property
    def option(self) -> str:
        """How the command line says it."""
        return f"--{'fresh' if self.discard else 'redo'} {self.stage}"


def place_again(plan: Plan, again: Again, view: View, earlier: dict[str, Any], say: Callable[[str], None]) -> None:
    """Give a stage a new room, and with it all that is made from it; what was there is kept, or discarded.

    A run that was stopped in the middle of the same request goes on with it. Raises GaekitError where the recipe takes
    the stage from elsewhere, and RoomInUse where what is to be discarded is being written.
    """
    stage, store = plan[again.stage], view.path.parent / STORE
    if stage.room is None:
        raise GaekitError(
            f"{again.option}: this recipe takes it from {stage.artifact}, there is nothing to run; run it again "
            "where it was made"
        )
    if _was_stopped(again, stage.identity, earlier):
        say(f"{again.stage}: goes on with the {again.option} that was stopped")
        return
    if not stage.room.path.exists():
        return
    line = _discard(stage.room, view) if again.discard else f"{stage.room.path} stays as it is"
    name = begin_next(stage.room)
    say(f"{again.stage}: begins again in {store / again.stage / name}; {line}")
    fixed = _rooms_before(plan, again.stage) | {again.stage: name}
    plan.place(RoomChooser(store, rooms_of_run(view), fixed))


def remember(record: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Take over from a run's earlier record of the same results what is needed until the run is finished: the caches of
    a stage that was stopped, and the rooms that hold what is being redone."""
    for stage, entry in record["stages"].items():
        old = earlier["stages"].get(stage, {})
        if old.get("identity") != entry["identity"] or entry["room"] is None:
            continue
        if old.get("caches"):
            entry["caches"] = old["caches"]
        replaced = [room for room in (*old.get("replaces", ()), old.get("room")) if room and room != entry["room"]]
        if replaced:
            entry["replaces"] = replaced


def _was_stopped(again: Again, identity: str, earlier: dict[str, Any]) -> bool:
    """Whether the run's last attempt had the same request of the same recipe, and neither came to its end nor
    failed."""
    stages = earlier["stages"]
    failed = any(entry.get("status") == FAILED for entry in stages.values())
    same = earlier.get("again") == asdict(again) and stages.get(again.stage, {}).get("identity") == identity
    return same and earlier.get("finished") is None and not failed


def _rooms_before(plan: Plan, stage: str) -> dict[str, str]:
    """The rooms of the stages before a stage."""
    names = [planned.name for planned in plan.stages]
    before = plan.stages[: names.index(stage)]
    return {planned.name: planned.room.path.name for planned in before if planned.room is not None}


def _discard(room: Room, view: View) -> str:
    """Remove checkpoints and what is not finished from a room, and the room if nothing is left; -> what to say of
    it."""
    name = f"{STORE}/{room.path.parent.name}/{room.path.name}"
    users = users_of_rooms(view.path.parent)[name] - {view.path.name}
    if name in view.rooms(history_only=True):
        users.add(f"the history of {view.path.name}")
    if users:
        return f"nothing is discarded: {room.path} is needed by {', '.join(sorted(users))}"
    before = size_of(room.path)
    with room.lock():
        finished = [path.parent for path in (room.path / "DONE", *room.path.glob("*/DONE")) if path.exists()]
        if not finished:
            room.remove()
        else:
            for folder in (room.path, *(path for path in room.path.glob("step-*") if path.is_dir())):
                remove(folder / "checkpoints")
                if folder != room.path and folder not in finished:
                    remove(folder)
    freed = human_size(before - (size_of(room.path) if finished else 0))
    return f"discarded {freed} of {room.path}"
