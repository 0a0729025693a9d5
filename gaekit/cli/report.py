"""`gaekit report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.")],
    to: Annotated[Path | None, typer.Option(help="Another file than the run's own report.html.")] = None,
) -> None:
    """Write a run as one page to open, send or print: report.html.

    Samples, reconstructions, nearest training images, numbers, curves, the latent space, times, recipe. The page is one
    file without JavaScript that fetches nothing. What the run lacks is left out with a sentence.
    """
    from functools import partial

    from gaekit.cli.output import say
    from gaekit.pipeline.view import View
    from gaekit.plugins import load_plugins
    from gaekit.runs.report import write_report

    say(f"report: {write_report(View(run), load_plugins(), to, partial(say, stderr=True))}")
