"""`gaekit tune-guidance`: better settings of sampling for a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaekit.cli.options import JsonOption

if TYPE_CHECKING:
    from gaekit.runs.tune.search import Found

METRIC_HELP = "A number of the run's samples, such as frechet_efficientnet_lite0, or a metric: '{use: frechet, ...}'."


def tune_guidance(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, such as runs/quickstart; its data is read.")],
    metric: Annotated[str, typer.Option(metavar="M", help=METRIC_HELP)],
    budget: Annotated[int, typer.Option(metavar="N", min=2, help="Evaluations in all, those of earlier calls too.")],
    also: Annotated[
        str | None, typer.Option(metavar="M", help="A second number, such as recall: finds the front of both.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=2, help="Images an evaluation; the recipe's sample.count by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the images tuned on; the recipe's + 1 by default.")
    ] = None,
    tune: Annotated[str, typer.Option(help="What is tuned, of these three.")] = "scale,interval,shift",
    max_scale: Annotated[float, typer.Option(help="The greatest guidance scale that is tried.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Search a run's guidance weight, interval and time shift.

    By Optuna, whose study lies in the run's folder: the same command goes on where it was stopped. The numbers of the
    best are made anew with a seed that nothing was tuned on.
    """
    from gaekit.cli.output import console, print_json, say
    from gaekit.runs.opened import open_run
    from gaekit.runs.tune import Task, tune_guidance
    from gaekit.runs.tune.text import lines_of

    names = tuple(name.strip() for name in tune.split(","))
    opened = open_run(run)
    found = tune_guidance(opened, Task(metric, also, budget, images, seed, names, max_scale))
    command = opened.record["command"]
    files = [found.folder / "result.json", *_page(found, command)]
    if as_json:
        print_json(found.result)
        return
    screen = console()
    for line in lines_of(found.result, command, min(screen.width, 120) if screen.is_terminal else 80):
        say(line)
    say(f"written: {', '.join(map(str, files))}")


def _page(found: Found, command: list[str]) -> list[Path]:
    """The page, where it can be made; else a line tells what it needs."""
    from gaekit.cli.output import say
    from gaekit.errors import GaekitError
    from gaekit.runs.page import require_extra
    from gaekit.store.files import write_text

    try:
        require_extra()
    except GaekitError as error:
        say(f"no page: {error}", stderr=True)
        return []
    from gaekit.runs.tune.page import make_page

    write_text(found.folder / "page.html", make_page(found.result, command))
    return [found.folder / "page.html"]
