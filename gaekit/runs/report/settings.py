"""The recipe: what differs from the recipe that it comes from, and the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from gaekit.errors import GaekitError
from gaekit.pipeline.view import RECIPE
from gaekit.plugins import Registry
from gaekit.recipe.load import load_recipe
from gaekit.recipe.shipped import list_recipes
from gaekit.recipe.writing import dump
from gaekit.runs.compare.settings import RUNTIME, differing, leaves, text_of
from gaekit.runs.page import details, table
from gaekit.runs.report.parts import code, joined, lines, paragraph
from gaekit.runs.report.source import Source

RELATED = 0.5
"""The share of settings that must be equal for one recipe to be called another's parent."""

SHOWN = 15
"""Up to how many differences stand open on the page; more are folded."""


@dataclass(frozen=True)
class Parent:
    """The shipped recipe nearest to a run's, and what differs: (setting, here, there)."""

    name: str
    differences: list[tuple[str, Any, Any]]


def settings(source: Source) -> Markup:
    """What differs from the nearest shipped recipe, and the resolved recipe."""
    parent = find_parent(_with_all_defaults(source), source.registry)
    text = (source.view.path / RECIPE).read_text(encoding="utf-8")
    return joined([differences_from(parent), details("The whole recipe, every default written out", lines(text))])


def _with_all_defaults(source: Source) -> Mapping[str, Any]:
    """The run's settings, with those that have come since at their defaults; as they stand where a plugin lacks."""
    try:
        return dump(source.run.recipe)
    except GaekitError:
        return source.settings


def differences_from(parent: Parent | None) -> Markup:
    """A sentence and a table, folded where it is long."""
    if parent is None:
        return paragraph("No recipe that comes with gaekit is near this one.")
    name = code(parent.name)
    if not parent.differences:
        return paragraph(
            Markup("Every setting that decides a result is that of {}, which comes with gaekit.").format(name)
        )
    rows = [[code(key), code(text_of(here)), code(text_of(there))] for key, here, there in parent.differences]
    told = Markup("Of the recipes that come with gaekit, {} is the nearest; {} of its settings differ.").format(
        name, len(rows)
    )
    differences = table(("setting", "here", f"in {parent.name}"), rows, caption="What differs from the parent")
    if len(rows) > SHOWN:
        differences = details(f"All {len(rows)} of them", differences)
    return joined([paragraph(told), differences])


def find_parent(own: Mapping[str, Any], registry: Registry) -> Parent | None:
    """The shipped recipe with the fewest settings that differ; of equal ones that of the same name. None where less
    than half of the settings are equal."""
    best = None
    for shipped in list_recipes():
        try:
            theirs = dump(load_recipe(shipped.path, registry))
        except GaekitError:  # it needs a plugin or a variable that is not here
            continue
        keys = [key for key in {**dict(leaves(own)), **dict(leaves(theirs))} if not key.startswith(f"{RUNTIME}.")]
        differences = [(s.key, *s.values) for s in differing([own, theirs]) if not s.is_runtime]
        rank = (len(differences), shipped.name != own.get("name"), shipped.name)
        if len(differences) <= (1 - RELATED) * len(keys) and (best is None or rank < best[0]):
            best = rank, Parent(shipped.name, differences)
    return best[1] if best else None
