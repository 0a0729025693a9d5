"""Options of `gaekit` itself, and those that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe file, or the name of a shipped recipe (`gaekit recipes`).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: diffusion.train.steps=2000. Repeatable."),
]


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
