"""`gaekit assets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaekit.cli.options import JsonOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from gaekit.api import Asset
    from gaekit.api.assets import State
    from gaekit.pipeline.assets import Need


def assets(
    recipe: RecipeArgument,
    set_: SetOption = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is absent or damaged.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the weights and files that a recipe needs from outside.

    Each is present, absent or damaged. Ends with 2 unless all are there.
    """
    from gaekit.cli.output import print_json, print_table, say
    from gaekit.pipeline.assets import absent_error, discard_damaged, fetch_all, find_needs, states_of
    from gaekit.plugins import load_plugins
    from gaekit.recipe import load_recipe

    registry = load_plugins()
    needs = find_needs(load_recipe(recipe, registry, overrides=set_ or ()), registry)
    states = states_of(needs)
    if fetch:
        lacking = [need for need, state in states.items() if state != "present" and _published(need.asset)]
        discard_damaged(states)
        fetch_all(lacking, lambda line: say(line, stderr=True))
        states = states_of(needs)
    rows = _rows(states)
    if as_json:
        print_json(rows)
    elif rows:
        print_table(("state", "size", "for", "what", "where it is kept"), [_cells(row) for row in rows])
    else:
        say("this recipe needs no file from outside")
    if any(state != "present" for state in states.values()):
        raise absent_error(states)


def _published(asset: Asset) -> bool:
    from gaekit.api.assets import PublishedAsset

    return isinstance(asset, PublishedAsset)


def _rows(states: dict[Need, State]) -> list[dict[str, Any]]:
    """One for each asset, with all who need it."""
    rows: dict[Asset, dict[str, Any]] = {}
    for need, state in states.items():
        asset = need.asset
        path = asset.find()
        row = rows.setdefault(asset, {
            "state": state, "bytes": path.stat().st_size if path and path.is_file() else None, "for": [], "stages": [],
            "what": asset.what, "source": asset.source, "path": str(asset.place),
            "sha256": asset.sha256_starts or None,
        })  # fmt: skip
        for key, value in (("for", need.owner), ("stages", need.stage)):
            if value not in row[key]:
                row[key].append(value)
    return list(rows.values())


def _cells(row: dict[str, Any]) -> list[str]:
    from gaekit.store.files import human_size

    size = "" if row["bytes"] is None else human_size(row["bytes"])
    return [row["state"], size, ", ".join(row["for"]), row["what"], row["path"]]
