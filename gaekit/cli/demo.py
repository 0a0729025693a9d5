"""`gaekit demo`: a local page to try a run with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/quickstart.")],
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of 127.0.0.1; the first free one from 7860 on by default.")
    ] = None,
) -> None:
    """Open a local page to sample from a run and reconstruct images.

    It is for this machine alone (127.0.0.1), asks nothing of any other, and writes nothing into the run. Samples are
    made by class, with sliders for the sampler's steps, guidance, its interval and the seed; an image that is dropped
    is reconstructed, without noise on its latent and with it. Ctrl-C ends it. Needs gradio, which the extra `demo`
    brings: pip install 'gaekit[demo]'.
    """
    from gaekit.cli.output import say
    from gaekit.demo.server import require_extra, serve

    require_extra()  # before torch is imported

    from rich.console import Console

    from gaekit.runs.opened import open_run
    from gaekit.train.progress import Reporter

    quiet = Reporter(Console(quiet=True))
    serve(open_run(run, reporter=quiet), port, lambda address: say(f"{address} shows {run}; Ctrl-C ends it"))
