"""Which room a stage has: `store/<stage>/<fingerprint>`, and once it was begun again `<fingerprint>-2`, `-3`, ...

What a room holds never makes way for another result: `--redo` begins the next room of the fingerprint, and runs that
refer to an earlier one go on to use that. A stage whose inputs stand in such a later room has another name, the hash of
its fingerprint and of those rooms, so that one redone stage has all that is made from it done again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaekit.errors import GaekitError
from gaekit.pipeline.view import View
from gaekit.store.files import sha256_json
from gaekit.store.room import Room

NAME_LENGTH = 12
"""Hex digits of a hash that name a room."""


@dataclass(frozen=True)
class RoomChooser:
    """Chooses rooms in a store. `own`: by stage, (identity, room) that the run has had; `fixed`: by stage, the room
    that it must have."""

    store: Path
    own: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)

    def choose(self, stage: str, fingerprint: str, identity: str, subfolder: str, made_from: Mapping[str, str]) -> Room:
        """The room of a stage: the fixed one; that which this run has had for the same result; the newest in which the
        result is complete; the newest. `made_from`: the rooms of inputs that were begun again."""
        folder = self.store / stage
        if stage in self.fixed:
            return Room(folder / self.fixed[stage], subfolder)
        base = base_name(fingerprint, made_from)
        names = generations(folder, base)
        if self.own.get(stage, ("", ""))[0] == identity and self.own[stage][1] in names:
            return Room(folder / self.own[stage][1], subfolder)
        complete = [name for name in names if Room(folder / name, subfolder).done() is not None]
        return Room(folder / (complete or names or [base])[-1], subfolder)


def base_name(fingerprint: str, made_from: Mapping[str, str]) -> str:
    """The name of a stage's first room."""
    decided = sha256_json({"fingerprint": fingerprint, "made_from": dict(made_from)}) if made_from else fingerprint
    return decided[:NAME_LENGTH]


def is_first(room: Room, fingerprint: str) -> bool:
    """Whether a room is the first of its fingerprint, all of whose inputs are in such rooms."""
    return room.path.name == fingerprint[:NAME_LENGTH]


def generations(folder: Path, base: str) -> list[str]:
    """The rooms of one name under a stage's folder, oldest first."""
    there = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted((name for name in there if re.fullmatch(rf"{base}(-\d+)?", name)), key=_number)


def begin_next(room: Room) -> str:
    """Make the room that follows a room and its later ones; -> its name. The first where there is none any more."""
    base = room.path.name.partition("-")[0]
    while True:
        names = generations(room.path.parent, base)
        path = room.path.with_name(f"{base}-{_number(names[-1]) + 1}" if names else base)
        try:
            path.mkdir(parents=True)
            return path.name
        except FileExistsError:  # another run has begun it in this moment
            continue


def earlier_record(view: View) -> dict[str, Any]:
    """The record of a run as it stands; {"stages": {}} where there is none, or none that can be read."""
    try:
        return view.record
    except (GaekitError, OSError, ValueError):
        return {"stages": {}}


def rooms_of_run(view: View) -> dict[str, tuple[str, str]]:
    """By stage (identity, name of the room) of a run as it stands."""
    entries = earlier_record(view)["stages"].items()
    return {stage: (e["identity"], e["room"].rpartition("/")[2]) for stage, e in entries if e["room"] is not None}


def _number(name: str) -> int:
    return int(name.partition("-")[2] or 1)
