"""`gaekit runs`: what is in a folder of runs, and how each stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from gaekit.runs.listing import Listed

SECONDS_ON_A_TERMINAL, SECONDS_ELSEWHERE = 2.0, 30.0
COLOURS = {"running": "cyan", "failed": "bold red", "damaged": "bold red", "stopped": "yellow", "done": "green"}
NUMBERS = 3


def runs(
    out: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C; in a log every 30.")
    ] = False,
) -> None:
    """List what is in a folder of runs, and how each run stands.

    State, stage and progress of what is under way, time left of that stage, size on the disk, numbers.
    """
    from gaekit.cli.output import print_json
    from gaekit.errors import GaekitError
    from gaekit.runs.listing import list_runs

    if as_json and watch:
        raise GaekitError("--json with --watch: give one of the two")
    if not out.is_dir():
        raise GaekitError(f"--out {out}: no such folder; `gaekit run` makes it, or name the one that you gave it")
    if as_json:
        print_json([run.as_data() for run in list_runs(out)])
    elif watch:
        _watch(out)
    else:
        _show(out)


def _show(out: Path) -> None:
    from gaekit.cli.output import print_table, say
    from gaekit.pipeline.view import TRIALS
    from gaekit.runs.listing import list_runs

    found = list_runs(out)
    if not found:
        trials = out / TRIALS
        tried = f"; what `gaekit run --try` made is listed by `gaekit runs --out {trials}`" if trials.is_dir() else ""
        say(f"{out}: no runs yet{tried}")
        return
    print_table(HEAD, [row_of(run) for run in found])
    say(_foot(out, found))


def _watch(out: Path) -> None:
    """On a terminal one table that changes, elsewhere one now and then; Ctrl-C ends it."""
    import time

    from rich.console import Group
    from rich.live import Live

    from gaekit.cli.output import console, make_table
    from gaekit.runs.listing import list_runs

    screen = console()
    try:
        if not screen.is_terminal:
            while True:
                _show(out)
                time.sleep(SECONDS_ELSEWHERE)
        with Live(console=screen, auto_refresh=False) as live:
            while True:
                found = list_runs(out)
                shown = make_table(HEAD, [row_of(run) for run in found])
                live.update(Group(shown, _foot(out, found)), refresh=True)
                time.sleep(SECONDS_ON_A_TERMINAL)
    except KeyboardInterrupt:
        return


HEAD = ("run", "state", "size", "stage or numbers")


def row_of(run: Listed) -> list[str | Text]:
    """A run as a row under `HEAD`: few columns, so that 80 characters hold them."""
    from rich.text import Text

    from gaekit.store.files import human_size

    shown = [text for text in (_under_way(run), run.problem or "", _numbers(run)) if text]
    return [run.name, Text(run.state, style=COLOURS[run.state]), human_size(run.size), "; ".join(shown)]


def _under_way(run: Listed) -> str:
    """As `diffusion 309/1,000, 5.1 min left`."""
    from gaekit.store.files import human_duration

    progress, text = run.progress, run.stage or ""
    if progress.of is not None:
        text += f" {progress.step:,}/{progress.of:,}"
    return text if progress.left is None else f"{text}, {human_duration(round(progress.left))} left"


def _numbers(run: Listed) -> str:
    from gaekit.runs.listing import main_numbers

    shown = main_numbers(run.numbers, NUMBERS)
    return ", ".join(f"{name.partition('/')[2] or name} {value:.4g}" for name, value in shown)


def _foot(out: Path, found: list[Listed]) -> str:
    from gaekit.pipeline.rooms import size_of
    from gaekit.store.files import human_size

    return f"{len(found)} run{'' if len(found) == 1 else 's'}, {human_size(size_of(out))} on the disk"
