"""Saves three checkpoints again and again, killed a moment later each time: before every single operation on a file.

Prints for each moment what a process that looks afterwards finds. Usage: kills_program.py FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from gaekit.train.checkpoint import Checkpoints

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
STEPS = (1, 2, 3)


def save_all(folder: Path) -> None:
    """What a training would do, each save on disk before the next begins. Keeps one."""
    with Checkpoints(folder, keep=1) as saved:
        found = saved.latest(max(STEPS))
        for step in STEPS[found.step if found else 0 :]:
            saved.save(step, {"seen": step}, {"weights": {"a": torch.full((10,), float(step))}}, required=True)
            (folder.parent / f"{folder.name}.saved").write_text(str(step))


def killed_at(moment: int, folder: Path) -> bool:
    """Save in a process of its own that dies before its `moment`-th operation; -> whether it did."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in EVENTS and (f"/{folder.name}/" in str(arguments[0]) or event in ("os.remove", "os.rmdir")):
                count += 1
                if count == moment:
                    os._exit(9)

        sys.addaudithook(watch)
        save_all(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def look(folder: Path) -> dict[str, Any]:
    """The step that was last reported as saved, and what is there, before and after the same command is run again."""
    report, saved = folder.parent / f"{folder.name}.saved", Checkpoints(folder)
    reported = int(report.read_text()) if report.exists() else 0
    found = saved.latest(9)
    sound = {step: not saved.damage(step) for step in saved.steps()}
    save_all(folder)
    return {
        "reported": reported, "found": found.step if found else 0, "sound": all(sound.values()),
        "right": found is None or found.groups["weights"]["a"].tolist() == [found.state["seen"]] * 10,
        "after": [path.name for path in folder.iterdir()],
    }  # fmt: skip


def main(root: Path) -> None:
    os.fsync = lambda handle: None  # a killed process loses nothing that it wrote; only a machine does
    found = []
    while killed_at(len(found) + 1, root / f"run{len(found) + 1}"):
        found.append(look(root / f"run{len(found) + 1}"))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
