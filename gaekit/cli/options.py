"""Options of `gaekit` itself, and those that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def complete_recipe(incomplete: str) -> list[str]:
    """Shipped recipes and YAML files that begin so, for the shell's Tab; of anything else the shell knows itself."""
    from gaekit.recipe.shipped import SUFFIXES, list_recipes

    here = [str(path) for path in sorted(Path().glob("*")) if path.suffix in SUFFIXES]
    names = [*here, *(recipe.name for recipe in list_recipes())]
    return [name for name in names if name.startswith(incomplete)]


def complete_stage(incomplete: str) -> list[str]:
    """Stages that begin so."""
    return [stage for stage in STAGES if stage.startswith(incomplete)]


STAGES = ("semantic", "autoencoder", "latents", "diffusion", "sample", "evaluate")
"""As gaekit.stages has them; named here since that imports torch."""
RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A recipe file, or the name of a shipped recipe (`gaekit recipes`).", autocompletion=complete_recipe
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: diffusion.train.steps=2000. Repeatable."),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]

DEVICE = Annotated[str, typer.Option("--device", help="auto: cuda where there is one, else cpu; or cuda:N.")]


def _show_version(asked: bool) -> None:
    if asked:
        from gaekit import __version__

        print(f"gaekit {__version__}")
        raise typer.Exit


def gaekit(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors too.")] = False,
) -> None:
    """Train, sample and evaluate latent diffusion models from one recipe."""
