"""`gaekit compare`: runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, such as runs/quickstart; the first is the measure.")
    ],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page, with curves and samples, in place of text."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything but the curves as JSON.")] = False,
) -> None:
    """Set runs beside each other: settings, numbers, curves, costs.

    A difference counts where its 95 % interval holds no 0: image by image where both runs judged the same held-out
    images, else from the intervals of both numbers. Numbers of different protocols are told as not comparable.
    """
    from gaekit.cli.output import console, print_json, say
    from gaekit.runs.compare import compare_runs

    comparison = compare_runs(runs)
    if html is not None:
        from gaekit.runs.compare.page import make_page
        from gaekit.store.files import write_text

        write_text(html, make_page(comparison))
        say(f"page: {html}", stderr=json)
    if json:
        print_json(comparison.to_json())
    elif html is None:
        from gaekit.runs.compare.text import lines_of

        screen = console()
        for line in lines_of(comparison, min(screen.width, 120) if screen.is_terminal else 80):
            say(line)
