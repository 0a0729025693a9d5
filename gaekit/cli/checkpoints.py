"""`gaekit checkpoints`: what a run's trainings have saved, and whether it is still what was saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaekit.cli.options import JsonOption

if TYPE_CHECKING:
    from gaekit.store.checkpoints import StoredCheckpoint

RUN = Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart; it may be running.")]
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def make_app() -> typer.Typer:
    """The commands under `gaekit checkpoints`."""
    app = typer.Typer(help="List or verify what the trainings of a run have saved.", no_args_is_help=True)
    app.command("ls")(ls)
    app.command("verify")(verify)
    return app


def ls(run: RUN, as_json: JsonOption = False) -> None:
    """List a run's checkpoints: stage, step, size, age, why each is kept, whether all its files are there."""
    import time

    from gaekit.cli.output import print_table, say
    from gaekit.store.files import human_size

    found = list(_found(run, hashes=False))
    if as_json:
        _print_json(found)
        return
    if not found:
        say(f"{run}: no checkpoints")
        return
    print_table(("stage", "step", "size", "age", "kept", "complete"), (
        (stage, str(c.step), human_size(c.size), _age(time.time() - c.saved), ", ".join(c.kept) or "-",
         "no: " + "; ".join(c.damage) if c.damage else "yes") for stage, c in found
    ))  # fmt: skip
    say(f"{_count(found)}, {human_size(sum(c.size for _, c in found))}")


def verify(run: RUN, as_json: JsonOption = False) -> None:
    """Read every file of a run's checkpoints and compare its sha256 with what was saved; exit 2 if one differs."""
    from gaekit.cli.output import say
    from gaekit.store.files import human_size

    found = []
    for stage, checkpoint in _found(run, hashes=True):
        found.append((stage, checkpoint))
        for text in () if as_json else checkpoint.damage:
            say(f"damaged: {checkpoint.path}: {text}")
        if not checkpoint.damage and not as_json:
            say(f"intact: {stage} step {checkpoint.step}, {checkpoint.files} files, {human_size(checkpoint.size)}")
    damaged = sum(bool(c.damage) for _, c in found)
    if as_json:
        _print_json(found)
    else:
        say(f"{_count(found)}, {damaged} damaged")
    if damaged:
        raise typer.Exit(2)


def _found(run: Path, *, hashes: bool) -> Iterator[tuple[str, StoredCheckpoint]]:
    """(stage, checkpoint) of the run's present rooms. Raises ArtifactError where there is no run."""
    from gaekit.pipeline.view import View
    from gaekit.store.checkpoints import CheckpointFolder
    from gaekit.store.room import Room

    for stage, entry in View(run).record["stages"].items():
        if entry["room"]:
            folder = CheckpointFolder(Room(run.parent / entry["room"], entry["subfolder"]).checkpoints)
            yield from ((stage, checkpoint) for checkpoint in folder.stored(hashes=hashes))


def _print_json(found: list[tuple[str, StoredCheckpoint]]) -> None:
    from gaekit.cli.output import print_json

    print_json([_as_json(stage, checkpoint) for stage, checkpoint in found])


def _as_json(stage: str, checkpoint: StoredCheckpoint) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "stage": stage,
        "step": checkpoint.step,
        "path": str(checkpoint.path),
        "bytes": checkpoint.size,
        "saved": datetime.fromtimestamp(checkpoint.saved, UTC).isoformat(timespec="seconds"),
        "kept": list(checkpoint.kept),
        "damage": list(checkpoint.damage),
    }


def _count(found: list[tuple[str, StoredCheckpoint]]) -> str:
    return f"{len(found)} checkpoint{'s' if len(found) != 1 else ''}"


def _age(seconds: float) -> str:
    """Whole units, the largest that fits: 3 h."""
    unit, size = next(((unit, size) for unit, size in UNITS if seconds >= size), UNITS[-1])
    return f"{max(0, int(seconds / size))} {unit}"
