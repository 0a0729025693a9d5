"""A sweep as a file: one recipe, what is set in all of its runs, what is tried, and over which seeds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gaekit.recipe.schema import Section

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Changes = dict[str, Any]
"""Keys of the recipe, as after `--set`, with their values."""


class ListedMember(Section):
    """One setting of a sweep beside those of its grid."""

    name: Annotated[str, Field(pattern=_NAME, max_length=40)] | None = Field(
        default=None, description="what it is called; null names it after its settings"
    )
    changes: Changes = Field(default={}, alias="set", description="keys of the recipe that it sets, after the common")


class SweepFile(Section):
    """What `gaekit sweep` runs: every setting of the grid, and every member of the list, once for each seed."""

    sweep: Literal[1] = Field(description="the version of this format; write `sweep: 1`")
    name: Annotated[str, Field(pattern=_NAME, max_length=40)] = Field(
        description="its folder is runs/<name>.sweep, its runs are runs/<name>.<setting>"
    )
    recipe: str = Field(description="the recipe's file, seen from this one, or the name of a shipped recipe")
    changes: Changes = Field(default={}, alias="set", description="keys of the recipe that all runs set")
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default={}, description="keys of the recipe with the values to try; every combination is a setting"
    )
    members: tuple[ListedMember, ...] = Field(default=(), description="further settings, one by one")
    seeds: tuple[Annotated[int, Field(ge=0, le=10**9)], ...] = Field(
        default=(), description="seeds that each setting is run with; none is the recipe's own"
    )
