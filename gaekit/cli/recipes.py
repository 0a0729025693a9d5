"""`gaekit recipes`: the recipes and sweeps that come with gaekit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaekit.cli.options import JsonOption


def make_app() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(invoke_without_command=True)
    app.callback()(show)
    app.command()(copy)
    return app


def show(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the recipes and sweeps that come with gaekit, or copy one."""
    if context.invoked_subcommand is not None:
        return
    from gaekit.cli.output import print_json, print_table, say
    from gaekit.recipe.shipped import list_recipes, list_sweeps

    found = {"recipe": list_recipes(), "sweep": list_sweeps()}
    if as_json:
        print_json(
            [
                {"kind": kind, "name": r.name, "summary": r.summary, "path": str(r.path)}
                for kind, shipped in found.items()
                for r in shipped
            ]
        )
        return
    print_table(("recipe", ""), [(recipe.name, recipe.summary) for recipe in found["recipe"]])
    say("")
    print_table(("sweep", ""), [(sweep.name, sweep.summary) for sweep in found["sweep"]])


def copy(
    name: Annotated[str, typer.Argument(help="One of `gaekit recipes`.")],
    destination: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="A file or a folder; here by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Copy a shipped recipe or sweep, to change it.

    A sweep's recipe stays the shipped one, which goes by its name from any folder.
    """
    from gaekit.cli.output import say
    from gaekit.recipe.shipped import copy_recipe, list_sweeps

    path = copy_recipe(name, destination, force=force)
    say(f"wrote {path}")
    if name in {sweep.name for sweep in list_sweeps()}:
        from gaekit.recipe.load import read_file  # which takes torch, and is for sweeps alone

        recipe = read_file(path, "sweep").data["recipe"]
        say(f"its recipe is the shipped '{recipe}'; to change that too, `gaekit recipes copy {recipe}` beside it, "
            f"and write `recipe: {Path(recipe).name}.yaml`")  # fmt: skip
