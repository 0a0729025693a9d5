"""What differs between resolved recipes, by dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OWN = ("name", "recipe")
"""What is a recipe's own and decides nothing."""
RUNTIME = "runtime"


class Absent:
    """Stands where a recipe has no such key, as null may be a value."""

    def __repr__(self) -> str:
        return "–"


ABSENT = Absent()


@dataclass(frozen=True)
class Setting:
    """A key whose values differ, one a recipe; `ABSENT` where a recipe does not have it."""

    key: str
    values: tuple[Any, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as they stand in a recipe."""
        return tuple(text_of(value) for value in self.values)

    @property
    def is_runtime(self) -> bool:
        """Whether it decides how a run goes, and no result."""
        return self.key.partition(".")[0] == RUNTIME


def differing(recipes: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The keys whose values are not the same in all recipes, in the order of these. Resolved recipes say every default,
    so one that changed between two versions is among them."""
    flat = [dict(leaves(recipe)) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = (Setting(key, tuple(one.get(key, ABSENT) for one in flat)) for key in keys)
    return [row for row in rows if any(not _same(row.values[0], value) for value in row.values[1:])]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a recipe or a protocol but a recipe's name; lists of components by their
    place: `evaluate.metrics[2].C`."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            if path or key not in OWN:
                yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def text_of(value: Any) -> str:
    """A value as it stands in a recipe."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(text_of, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
