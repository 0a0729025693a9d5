"""`gaekit import` and `gaekit export`: other projects' checkpoints and caches."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gaekit.interop.formats import FORMATS, Options


class Weights(StrEnum):
    """Which set of a file's weights."""

    ema = "ema"
    model = "model"


class PathName(StrEnum):
    """Paths between noise and data."""

    linear = "linear"
    gvp = "gvp"
    vp = "vp"


class Quantity(StrEnum):
    """What a denoiser may predict."""

    velocity = "velocity"
    noise = "noise"
    score = "score"
    data = "data"


class Names(StrEnum):
    """In whose names an autoencoder of convolutions is written."""

    published = "published"
    diffusers = "diffusers"


_LISTED = ", ".join(FORMATS)
FORMAT = Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of: {_LISTED}.")]


def import_(
    format_: FORMAT,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pt, .ckpt or .safetensors; a folder of latents or of diffusers'.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the artifact: a recipe takes it by {from: DIR}.")],
    weights: Annotated[Weights | None, typer.Option(help="Which set; the averaged where there is one.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads; an encoder's where there are two.")] = None,
    decoder_heads: Annotated[int | None, typer.Option(min=1, help="Attention heads of a decoder or head.")] = None,
    decoder_depth: Annotated[int | None, typer.Option(min=1, help="Blocks of a DiT-DH's head.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the images, pixels (ldm-vae).")] = None,
    grid: Annotated[int | None, typer.Option(min=1, help="Side of the latents.")] = None,
    absolute_positions: Annotated[
        bool | None, typer.Option("--absolute-positions/--no-absolute-positions", help="Whether they are used.")
    ] = None,
    path: Annotated[PathName | None, typer.Option(help="Path that it was trained on; linear.")] = None,
    predicts: Annotated[Quantity | None, typer.Option(help="What a SiT predicts; velocity.")] = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics of the latents: latents_stats.pt or .json.")] = None,
    scale: Annotated[float | None, typer.Option(help="Factor of the latents; 0.18215 for SD's.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Text file with a class name a line, in label order.")] = None,
) -> None:
    """Make a published checkpoint or latent cache an artifact. Recipes take it by {from: DIR}."""
    from gaekit.cli.output import say
    from gaekit.interop.importing import import_file
    from gaekit.plugins import load_plugins

    options = Options(
        weights=weights.value if weights else None,
        heads=heads,
        decoder_heads=decoder_heads,
        decoder_depth=decoder_depth,
        image_size=image_size,
        grid=grid,
        absolute_positions=absolute_positions,
        path=path.value if path else None,
        predicts=predicts.value if predicts else None,
        stats=stats,
        scale=scale,
        classes=classes,
    )
    imported = import_file(format_, file, out, options, load_plugins())
    for line in imported.lines:
        say(line)
    say(f"written: {imported.artifact}; in a recipe: {imported.recipe_line}")


def export(
    format_: FORMAT,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A run, an import, or an artifact.")],
    out: Annotated[
        Path, typer.Option(help="A .pt, .ckpt or .safetensors to write; a folder for latents and diffusers.")
    ],
    weights: Annotated[Weights | None, typer.Option(help="Which set; averaged ones where there are some.")] = None,
    stats: Annotated[Path | None, typer.Option(help="Also write a denoiser's latents_stats.pt there.")] = None,
    names: Annotated[Names, typer.Option(help="Names of an ldm-vae; diffusers: a folder for it.")] = Names.published,
    scale: Annotated[float | None, typer.Option(help="Factor of the latents, for --names diffusers.")] = None,
) -> None:
    """Write an artifact as the file that published code reads."""
    from gaekit.cli.output import say
    from gaekit.interop.exporting import export_artifact
    from gaekit.plugins import load_plugins

    files = export_artifact(
        format_,
        path,
        out,
        load_plugins(),
        weights=weights.value if weights else None,
        stats=stats,
        names=names.value,
        scale=scale,
    )
    for file in files:
        say(f"written: {file}")
