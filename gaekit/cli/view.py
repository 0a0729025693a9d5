"""`gaekit store` and `gaekit pack`: housekeeping of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaekit.cli.options import JsonOption

if TYPE_CHECKING:
    from gaekit.pipeline.rooms import StoredRoom

OUT = Annotated[Path, typer.Option("--out", help="Folder of all runs.")]


def make_store() -> typer.Typer:
    """The commands under `gaekit store`."""
    app = typer.Typer(help="List the rooms of all stages' results, or remove unused ones.", no_args_is_help=True)
    app.command("ls")(ls)
    app.command("gc")(gc)
    return app


def ls(out: OUT = Path("runs"), as_json: JsonOption = False) -> None:
    """List every room: its stage, size, whether it is complete, and the runs that use it."""
    from functools import partial

    from gaekit.cli.output import print_json, print_table, say
    from gaekit.pipeline.rooms import stored_rooms
    from gaekit.store.files import human_size

    rooms = stored_rooms(out, say=partial(say, stderr=True))
    if as_json:
        print_json([_room_as_data(stored) for stored in rooms])
        return
    rows = [
        (stored.stage, stored.room.path.name, human_size(stored.size), "yes" if stored.complete else "no",
         ", ".join(stored.used_by) or "-")
        for stored in rooms
    ]  # fmt: skip
    print_table(("stage", "room", "size", "complete", "used by"), rows)
    say(f"{len(rooms)} rooms, {human_size(sum(stored.size for stored in rooms))}")


def _room_as_data(stored: StoredRoom) -> dict[str, Any]:
    return {
        "stage": stored.stage,
        "room": stored.room.path.name,
        "path": str(stored.room.path),
        "bytes": stored.size,
        "complete": stored.complete,
        "used_by": list(stored.used_by),
    }


def gc(
    out: OUT = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the rooms that no run under this folder, nor the history of one, refers to.

    A room in which a process works is spared, and so is what does not look like a room.
    """
    from functools import partial

    from gaekit.cli.output import print_json, say
    from gaekit.pipeline.rooms import collect
    from gaekit.store.files import human_size

    gone = collect(out, dry=dry_run, say=partial(say, stderr=as_json))
    if as_json:
        print_json({"removed": not dry_run, "rooms": [_room_as_data(stored) for stored in gone]})
        return
    for stored in gone:
        say(f"{stored.stage}/{stored.room.path.name}  {human_size(stored.size)}")
    verb = "would be removed" if dry_run else "removed"
    say(f"{len(gone)} rooms {verb}, {human_size(sum(stored.size for stored in gone))}")


def pack(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.")],
    destination: Annotated[Path, typer.Argument(help="A folder to make.")],
    allow: Annotated[
        list[Path] | None,
        typer.Option(help="A folder outside of the run and its store whose artifacts may be copied; repeatable."),
    ] = None,
) -> None:
    """Copy a finished run into a folder that stands alone.

    It holds the recipe, artifacts, samples, numbers and curves.
    """
    from gaekit.cli.output import say
    from gaekit.pipeline.pack import pack as copy
    from gaekit.pipeline.view import View

    say(f"packed: {copy(View(run), destination, allow or ())}")
