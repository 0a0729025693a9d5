"""`gaekit evaluate`: numbers about images that gaekit did not make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaekit.cli.options import DEVICE, JsonOption

if TYPE_CHECKING:
    from gaekit.stages.judging import Numbers

METRIC_HELP = "A metric: its name, or '{use: NAME, ...}' with settings (`gaekit components metric`). Repeatable."


def evaluate(
    images: Annotated[
        str, typer.Argument(help="A folder of images, an .npz (arr_0), a parquet file, or a run: its samples.")
    ],
    metric: Annotated[list[str], typer.Option("--metric", "-m", help=METRIC_HELP)],
    against: Annotated[
        str | None,
        typer.Option(help="Other, real images: as IMAGES, an .npz of statistics, or a data set '{use: NAME}'."),
    ] = None,
    originals: Annotated[
        Path | None, typer.Option(help="IMAGES are reconstructions: the folder of their originals, by name.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="R", help="Crop and resize all to this side; else they must be alike.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once; changes no number.")] = 64,
    allow_few: Annotated[
        bool, typer.Option("--allow-few", help="Tell numbers also of fewer images than they need.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write numbers and protocols as JSON.")] = None,
    device: DEVICE = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    nproc: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes on this machine, one a GPU, started by torchrun.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge images by any metric, also such as gaekit did not make.

    With --against they are samples, compared with other real images; with --originals they are reconstructions, each
    compared with its original. The numbers' names say which: generation/fid, reconstruction/psnr.
    """
    from gaekit.cli.launch import relaunch
    from gaekit.cli.output import print_json, say
    from gaekit.parallel import is_first_process
    from gaekit.plugins import load_plugins
    from gaekit.runs.evaluate import Asked, evaluate_images
    from gaekit.store.files import write_json

    if nproc is not None:
        relaunch(nproc)
    asked = Asked(images, metric, against, originals, size, batch, allow_few, device, workers)
    numbers = evaluate_images(asked, load_plugins())
    if not is_first_process():
        return
    if out is not None:
        write_json(out, numbers)
        say(f"written: {out}", stderr=as_json)
    if as_json:
        print_json(numbers)
    else:
        show_numbers(numbers)


def show_numbers(numbers: Numbers) -> None:
    """A row for each number, and below them what their protocols warn of."""
    from gaekit.cli.output import print_table, say

    rows = []
    for name, entry in numbers.items():
        low, high = entry.get("interval", (None, None))
        rows.append((name, f"{entry['value']:.6g}", "" if low is None else f"{low:.4g} to {high:.4g}"))
    print_table(("number", "value", "95 % interval"), rows)
    for warning in dict.fromkeys(str(e["protocol"]["warning"]) for e in numbers.values() if "warning" in e["protocol"]):
        say(f"warning: {warning}", stderr=True)
