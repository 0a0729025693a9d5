"""`gaekit run` and `gaekit plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RECIPE = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe (`gaekit recipes`).")]
SET_HELP = "Change a setting: diffusion.train.steps=2000. Repeatable."
SET = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)]
OUT = Annotated[Path, typer.Option("--out", help="Folder of all runs.")]
NAME = Annotated[str | None, typer.Option("--name", help="Name of the run instead of the recipe's.")]


def run(
    recipe: RECIPE,
    set_: SET = None,
    name: NAME = None,
    out: OUT = Path("runs"),
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    redo: Annotated[str | None, typer.Option(help="Run this stage and all after it again, cached or not.")] = None,
) -> None:
    """Run a recipe: every stage that is not done yet, in order. The same command goes on after a stop."""
    from gaekit.pipeline.run import run_recipe
    from gaekit.plugins import load_plugins
    from gaekit.recipe import load_recipe

    registry = load_plugins()
    loaded = load_recipe(recipe, registry, overrides=set_ or (), name=name)
    run_recipe(loaded, registry, out=out, until=until, redo=redo)


def plan(
    recipe: RECIPE,
    set_: SET = None,
    name: NAME = None,
    out: OUT = Path("runs"),
    until: Annotated[str | None, typer.Option(help="Plan up to this stage.")] = None,
    facts: Annotated[bool, typer.Option("--facts", help="Show all that each fingerprint is made of.")] = False,
) -> None:
    """Show what `run` would do: stages, cached or not, sizes of networks and disk. Works without the data."""
    from gaekit.cli.planning import show_plan
    from gaekit.plugins import load_plugins
    from gaekit.recipe import load_recipe

    registry = load_plugins()
    show_plan(load_recipe(recipe, registry, overrides=set_ or (), name=name), registry, out, until, facts)
