"""Recipes: YAML files that say everything about an experiment.

What others call is here; it is imported when asked for, so that listing recipes needs neither pydantic nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaekit.recipe.canonical_form import canonical
    from gaekit.recipe.load import check_recipe, load_component, load_recipe, load_recipe_data, load_section
    from gaekit.recipe.shipped import copy_recipe, find_recipe, find_sweep, list_recipes, list_sweeps
    from gaekit.recipe.writing import dump, to_yaml

_HOMES = {
    "canonical": "canonical_form",
    "check_recipe": "load",
    "copy_recipe": "shipped",
    "dump": "writing",
    "find_recipe": "shipped",
    "find_sweep": "shipped",
    "list_recipes": "shipped",
    "list_sweeps": "shipped",
    "load_component": "load",
    "load_recipe": "load",
    "load_recipe_data": "load",
    "load_section": "load",
    "to_yaml": "writing",
}

__all__ = [
    "canonical",
    "check_recipe",
    "copy_recipe",
    "dump",
    "find_recipe",
    "find_sweep",
    "list_recipes",
    "list_sweeps",
    "load_component",
    "load_recipe",
    "load_recipe_data",
    "load_section",
    "to_yaml",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
