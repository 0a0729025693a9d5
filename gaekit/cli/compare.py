"""`gaekit compare`: runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from gaekit.runs.compare import Comparison, InBand


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, such as runs/quickstart; the first is the measure.")
    ],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page, with curves and samples, in place of text."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="NAME", help="Hold one run against reference curves: a recipe's name, or a file."),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="With --to: also where the recipe is another one.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything but the curves as JSON.")] = False,
) -> None:
    """Set runs beside each other: settings, numbers, curves, costs.

    A difference counts where its 95 % interval holds no 0: image by image where both runs judged the same held-out
    images, else from the intervals of both numbers. Numbers of different protocols are told as not comparable.

    With --to, a run is held against several of the same recipe with other seeds: which of its numbers and curves lie
    where one more of these would, and where the others left that band.
    """
    from gaekit.cli.output import console, print_json, say

    found = _held(runs, to, anyway=anyway)
    if html is not None:
        from gaekit.store.files import write_text

        write_text(html, _page(found))
        say(f"page: {html}", stderr=json)
    if json:
        print_json(found.to_json())
    elif html is None:
        screen = console()
        for line in _lines(found, min(screen.width, 120) if screen.is_terminal else 80):
            say(line)


def _held(runs: list[Path], to: str | None, *, anyway: bool) -> Comparison | InBand:
    """The runs beside each other, or one beside a reference."""
    from gaekit.errors import GaekitError
    from gaekit.runs.compare import compare_runs, compare_to
    from gaekit.runs.opened import open_run

    if to is None:
        if anyway:
            raise GaekitError("--anyway belongs to --to NAME, the reference that a run is held against")
        return compare_runs(runs)
    if len(runs) != 1:
        raise GaekitError(f"--to {to}: takes one run, and was given {len(runs)}; without --to runs are held together")
    return compare_to(open_run(runs[0]), to, anyway=anyway)


def _page(found: Comparison | InBand) -> str:
    from gaekit.runs.compare import InBand

    if isinstance(found, InBand):
        from gaekit.runs.compare import bands_page

        return bands_page.make_page(found)
    from gaekit.runs.compare import page

    return page.make_page(found)


def _lines(found: Comparison | InBand, width: int) -> Iterator[Text]:
    from gaekit.runs.compare import InBand, bands_text, text

    return bands_text.lines_of(found, width) if isinstance(found, InBand) else text.lines_of(found, width)
