"""`gaekit sample` and `gaekit reconstruct`: using a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaekit.cli.options import JsonOption

RUN = Annotated[Path, typer.Argument(help="A finished run's folder, such as runs/quickstart.")]


def sample(
    run: RUN,
    out: Annotated[
        Path, typer.Option(help="A .png (one grid), a .npz (arr_0, arr_1), or a folder (one PNG an image).")
    ],
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="Name or index of a class; repeatable; all by default.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images in all.")] = 16,
    seed: Annotated[int | None, typer.Option(min=0, help="Other images; the recipe's seed by default.")] = None,
    scale: Annotated[float | None, typer.Option(min=0, help="Guidance scale; the recipe's by default.")] = None,
    weak: Annotated[
        Path | None, typer.Option(help="Guide by a weaker denoiser (autoguidance): another run, a folder or a file.")
    ] = None,
) -> None:
    """Make new images with a finished run; needs no training data."""
    from gaekit.cli.output import say
    from gaekit.runs.export import check_kind
    from gaekit.runs.opened import open_run

    check_kind(out)  # before images are made that nothing can hold
    open_run(run).sample(class_ or None, count, guidance=scale, weak=weak, seed=seed).save(out)
    say(f"{count} images: {out}")


def reconstruct(
    run: RUN,
    folder: Annotated[Path, typer.Argument(help="A folder of images, sub-folders included.")],
    out: Annotated[Path, typer.Option(help="Folder for the reconstructions: PNGs under the same relative names.")],
    as_json: JsonOption = False,
) -> None:
    """Send a folder of images through a run's autoencoder and back. Says how near they come."""
    from gaekit.cli.output import print_json, say
    from gaekit.runs.opened import open_run
    from gaekit.runs.reconstruct import reconstruct_folder

    count, skipped, decibel = reconstruct_folder(open_run(run), folder, out)
    if as_json:
        print_json({"images": count, "out": str(out), "mean_psnr": decibel, "skipped": skipped})
        return
    say(f"{count} images: {out} (mean PSNR {decibel:.2f} dB)")
    for reason in skipped.values():  # each names its file
        say(f"skipped: {reason}", stderr=True)
