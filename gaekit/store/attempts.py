"""attempts.jsonl: what every attempt at a stage took, a line each, in the stage's room. Reading it takes neither torch
nor a plugin.

A line is written when an attempt begins, and written again every few seconds while it lasts, so that one that was
killed is known with all but its last seconds. Only who holds the room's lock writes; so an attempt of another that
still runs, as it stands, was killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gaekit.errors import ArtifactError
from gaekit.inside import require_regular
from gaekit.store.files import write_text

ATTEMPTS = "attempts.jsonl"
Outcome = Literal["running", "done", "failed", "stopped", "killed"]


class Attempt(BaseModel):
    """One attempt at a stage, and what it took until it ended, or until this was written.

    `started` is UTC in ISO 8601, `seconds` is by the clock, without the time in which it waited for another process's
    room. `outcome`: `failed` with an `error`; `stopped` by a signal, after saving; `killed` without a last word.
    `length`: how many steps the training was to have, where it may be prolonged; `apart`: it trained beside a longer
    one. A training took the steps from `first_step` (those that it went on from) to `last_step`, `ready_seconds` after
    its start the first of them. `images` went through the stage's networks: steps times batch, or what its bars count;
    `epoch` is how many there are to train on. `flop` is of all processes; None where it is not known, and too small by
    that of the networks in `uncounted`. `joules` is of all devices, by `joules_of`; None where they do not tell.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    started: str
    seconds: float
    outcome: Outcome
    device: str
    cuda: bool
    processes: int
    threads: int
    precision: str
    length: int | None = None
    apart: bool = False
    error: str = ""
    first_step: int | None = None
    last_step: int | None = None
    batch: int | None = None
    ready_seconds: float | None = None
    images: int = 0
    epoch: int | None = None
    flop: int | None = None
    flop_by_network: dict[str, int] = {}
    uncounted: dict[str, str] = {}
    joules: float | None = None
    joules_of: str = ""

    @property
    def steps(self) -> int:
        """Steps that it took."""
        return (self.last_step or 0) - (self.first_step or 0)

    @property
    def device_seconds(self) -> float:
        """Seconds of all its devices, one a process."""
        return self.seconds * self.processes

    @property
    def began(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.started).astimezone(UTC)


def read_attempts(path: Path) -> list[Attempt]:
    """The attempts in a file, in their order; none where there is no such file: the stage was never begun, or by a
    gaekit that did not write it.

    Raises ArtifactError, with the line's number, for a line that is not of this form.
    """
    if not path.exists():
        return []
    require_regular(path, "cannot be read")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Attempt.model_validate(json.loads(line)))
        except (ValueError, ValidationError, RecursionError) as error:
            raise ArtifactError(f"{path}:{number}: damaged: no line of attempts, got {ascii(line)[1:80]}") from error
    return found


def write_attempts(path: Path, attempts: Iterable[Attempt]) -> None:
    """Write the file, whole or not at all."""
    write_text(path, "".join(attempt.model_dump_json(exclude_defaults=True) + "\n" for attempt in attempts))


def killed(attempt: Attempt, step: int | None = None, seen: datetime | None = None) -> Attempt:
    """An attempt of whose end nobody wrote, though it has ended: as it was last written. Where the training's curves
    tell of a later `step`, written at `seen`, it came as far, with as much for each step as before."""
    changes: dict[str, object] = {"outcome": "killed"}
    if seen is not None:
        changes["seconds"] = max(attempt.seconds, (seen - attempt.began).total_seconds())
    if step is not None and attempt.last_step is not None and attempt.batch and step > attempt.last_step:
        steps = step - (attempt.first_step or 0)
        flop = {name: count * steps // attempt.steps for name, count in attempt.flop_by_network.items()}
        changes |= {
            "last_step": step, "images": steps * attempt.batch, "flop_by_network": flop,
            "flop": sum(flop.values()) if flop else None,
        }  # fmt: skip
    return attempt.model_copy(update=changes)
