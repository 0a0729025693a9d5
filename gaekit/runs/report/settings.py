"""The recipe: what differs from the recipe that it comes from, and the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from gaekit.errors import GaekitError
from gaekit.pipeline.view import RECIPE
from gaekit.plugins import Registry
from gaekit.recipe.load import load_recipe
from gaekit.recipe.shipped import list_recipes
from gaekit.recipe.writing import dump
from gaekit.runs.page import details, table
from gaekit.runs.report.parts import code, joined, lines, paragraph
from gaekit.runs.report.source import Source

Leaves = dict[str, Any]
ABSENT = "–"
RELATED = 0.5
"""The share of settings that must be equal for one recipe to be called another's parent."""
OWN = ("name", "runtime")
"""What is a run's own: it decides no result."""


@dataclass(frozen=True)
class Parent:
    """The shipped recipe nearest to a run's, and what differs: (setting, here, there)."""

    name: str
    differences: list[tuple[str, Any, Any]]


def settings(source: Source) -> Markup:
    """What differs from the nearest shipped recipe, and the resolved recipe."""
    parent = find_parent(_with_all_defaults(source), source.registry)
    text = (source.view.path / RECIPE).read_text(encoding="utf-8")
    return joined([_against(parent), details("The whole recipe, every default written out", lines(text))])


def _with_all_defaults(source: Source) -> Mapping[str, Any]:
    """The run's settings, with those that have come since at their defaults; as they stand where a plugin lacks."""
    try:
        return dump(source.run.recipe)
    except GaekitError:
        return source.settings


def _against(parent: Parent | None) -> Markup:
    if parent is None:
        return paragraph("No recipe that comes with gaekit is near this one.")
    name = code(parent.name)
    if not parent.differences:
        return paragraph(
            Markup("Every setting that decides a result is that of {}, which comes with gaekit.").format(name)
        )
    rows = [[code(key), code(_text(here)), code(_text(there))] for key, here, there in parent.differences]
    told = Markup("Of the recipes that come with gaekit, {} is the nearest; {} of its settings differ.").format(
        name, len(rows)
    )
    return joined(
        [paragraph(told), table(("setting", "here", f"in {parent.name}"), rows, caption="What differs from the parent")]
    )


def find_parent(own: Mapping[str, Any], registry: Registry) -> Parent | None:
    """The shipped recipe with the fewest settings that differ; of equal ones that of the same name. None where less
    than half of the settings are equal."""
    mine, best = dict(_leaves(own)), None
    for shipped in list_recipes():
        try:
            theirs = dict(_leaves(dump(load_recipe(shipped.path, registry))))
        except GaekitError:  # it needs a plugin or a variable that is not here
            continue
        keys = list(dict.fromkeys([*mine, *theirs]))
        differences = [
            (key, mine.get(key, ABSENT), theirs.get(key, ABSENT))
            for key in keys
            if mine.get(key, ABSENT) != theirs.get(key, ABSENT)
        ]
        rank = (len(differences), shipped.name != own.get("name"), shipped.name)
        if len(differences) <= (1 - RELATED) * len(keys) and (best is None or rank < best[0]):
            best = rank, Parent(shipped.name, differences)
    return best[1] if best else None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key path, value) of all settings but a run's own."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            if path or key not in OWN:
                yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
