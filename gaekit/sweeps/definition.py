"""A sweep, from its file or from `--sweep` options: its settings, with the place where each change was asked for."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaekit.errors import GaekitError, Problem, RecipeError
from gaekit.plugins import Registry
from gaekit.recipe.document import Document, read_value
from gaekit.recipe.load import check_section, read_file
from gaekit.recipe.overrides import is_key, parse_key
from gaekit.recipe.shipped import SUFFIXES, find_recipe, find_sweep, list_recipes
from gaekit.sweeps.labels import label, short_names, told_apart
from gaekit.sweeps.schema import SweepFile

MOST = 1000
"""Runs of a sweep: a grid of more is a slip, and its settings alone would be checked for minutes."""
SEED, NAME = "seed", "name"


@dataclass(frozen=True)
class Change:
    """A key of the recipe and the value that it gets; `origin` is the line or the option that says so."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True, eq=False)
class Setting:
    """What is tried, for each seed: changes to the recipe after those that all settings share."""

    label: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Definition:
    """A sweep before its recipe is looked at. `recipe` is a file or the name of a shipped recipe, `source` where the
    sweep was written, `file` what it says."""

    file: SweepFile
    recipe: str
    common: tuple[Change, ...]
    settings: tuple[Setting, ...]
    source: str

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.file.name

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seeds of each setting; None is the recipe's own."""
        return self.file.seeds or (None,)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the recipe that differ between settings, in the order in which they were written."""
        return tuple(dict.fromkeys(change.key for setting in self.settings for change in setting.changes))


def read_sweep(source: Path, registry: Registry, overrides: Sequence[str] = ()) -> Definition:
    """The sweep of a file, or of the name of a shipped one; `overrides` ("a.b=c") are set in all of its runs. Raises
    RecipeError with the line of each problem, and GaekitError where there is no such file or recipe."""
    path = find_sweep(source)
    document = read_file(path, "sweep")
    if "sweep" not in document.data and isinstance(document.data.get("recipe"), int):
        raise RecipeError(path, [Problem((), f"this is a recipe, not a sweep; `gaekit run {path}` runs it")])
    return _define(document, registry, overrides, path.parent)


def sweep_of_options(
    recipe: str, swept: Sequence[str], registry: Registry, overrides: Sequence[str] = (), name: str | None = None
) -> Definition:
    """The sweep of a recipe that `--sweep key=1,2,4` options ask for; the key `seed` gives the seeds. It is called
    `name`, or after the recipe and the keys. Raises RecipeError and GaekitError."""
    data: dict[str, Any] = {"sweep": 1, "name": name, "recipe": recipe, "grid": {}}
    document = Document(str(find_recipe(recipe)), data)
    for option in swept:
        _take(option, document)
    if document.problems:
        raise RecipeError(document.source, document.problems)
    if name is None:
        of_recipe = str(read_file(find_recipe(recipe)).data.get("name", Path(recipe).stem))
        names = short_names(tuple(data["grid"])).values()
        data["name"] = "-".join([of_recipe, *names])[:40].rstrip("-.") if names else f"{of_recipe}-seeds"[:40]
    return _define(document, registry, overrides, Path())


def _take(option: str, document: Document) -> None:
    """Read one `--sweep` option into the data of a sweep."""
    origin = f"--sweep {option}"
    key, equals, text = (part.strip() for part in option.partition("="))
    if not equals or not is_key(key):
        document.problems.append(Problem((), "write it as --sweep section.key=1,2,4", origin=origin))
        return
    values, problems = read_value(f"[{text}]")
    document.problems += [Problem((), problem.text, origin=origin) for problem in problems]
    if problems:
        return
    grid, path = document.data["grid"], ("seeds",) if key == SEED else ("grid", key)
    if path in document.origins:
        document.problems.append(Problem((), f"'{key}' is swept twice; give all its values in one", origin=origin))
    elif len(values) == 1 and isinstance(values[0], list):
        text = f"is one value, a list; to try each of its entries write --sweep {key}={text[1:-1]}"
        document.problems.append(Problem((), text, origin=origin))
    elif key == SEED:
        document.data["seeds"] = values
    else:
        grid[key] = values
    document.origins[path] = origin


def _define(document: Document, registry: Registry, overrides: Sequence[str], beside: Path) -> Definition:
    file = check_section(SweepFile, document, registry)
    too_many = list(_too_many(file))  # of which no pairs are compared: that would take hours
    problems = [*_wrong_keys(file), *(too_many or _twice(file)), *_overridden(file, overrides)]
    if problems:
        raise RecipeError(document.source, [document.locate(problem) for problem in problems])
    return Definition(
        file,
        _recipe_of(file, document, beside),
        (*_changes(file.changes, ("set",), document), *_of_options(overrides)),
        _settings(file, document),
        document.source,
    )


def _recipe_of(file: SweepFile, document: Document, beside: Path) -> str:
    """The recipe as every command takes it; a relative path is seen from the sweep's file."""
    if file.recipe in {recipe.name for recipe in list_recipes()}:
        return file.recipe
    path = Path(file.recipe).expanduser()
    is_path = len(path.parts) > 1 or path.suffix in SUFFIXES
    source = os.path.normpath(beside / path) if is_path else file.recipe
    try:
        find_recipe(source)
    except GaekitError as error:
        raise RecipeError(document.source, [document.locate(Problem(("recipe",), str(error)))]) from None
    return source


def _of_options(overrides: Sequence[str]) -> Iterator[Change]:
    """`--set` options as changes; what is not written as one is told by RecipeError."""
    problems = []
    for option in overrides:
        origin = f"--set {option}"
        key, equals, text = option.partition("=")
        value, wrong = read_value(text)
        if not equals or not is_key(key.strip()):
            wrong = [Problem((), "write it as --set section.key=value")]
        problems += [Problem(problem.path, problem.text, origin=origin) for problem in wrong]
        yield Change(key.strip(), value, origin)
    if problems:
        raise RecipeError("--set", problems)


def _settings(file: SweepFile, document: Document) -> tuple[Setting, ...]:
    """Every point of the grid, then every member of the list, each under a name of its own."""
    grid, members = list(_points(file)), file.members
    names = short_names(list(dict.fromkeys([*file.grid, *(key for m in members for key in m.changes)])))
    found: list[Setting] = []
    for point in grid:
        changes = [_change(key, value, ("grid", key, place), document) for key, (place, value) in point.items()]
        found.append(Setting(label({c.key: c.value for c in changes}, names), tuple(changes)))
    for place, member in enumerate(members):
        named = member.name or label(member.changes, names)
        found.append(Setting(named, tuple(_changes(member.changes, ("members", place, "set"), document))))
    alike = Counter(setting.label for setting in found)
    return tuple(
        Setting(told_apart(s.label, {c.key: c.value for c in s.changes}), s.changes) if alike[s.label] > 1 else s
        for s in found
    )


def _points(file: SweepFile) -> Iterator[dict[str, tuple[int, Any]]]:
    """The grid's points: by key (place among its values, value). One without changes where there is neither a grid nor
    a list."""
    if file.grid or not file.members:
        for values in itertools.product(*(enumerate(values) for values in file.grid.values())):
            yield dict(zip(file.grid, values, strict=True))


def _changes(changes: Mapping[str, Any], at: tuple[str | int, ...], document: Document) -> Iterator[Change]:
    for key, value in changes.items():
        yield _change(key, value, (*at, key), document)


def _change(key: str, value: Any, at: tuple[str | int, ...], document: Document) -> Change:
    place = document.locate(Problem(at, ""))
    return Change(key, value, place.origin or f"{document.source}:{place.line}")


def _wrong_keys(file: SweepFile) -> Iterator[Problem]:
    """Keys that no recipe has, and those that the sweep itself says."""
    listed = [(("members", place, "set"), member.changes) for place, member in enumerate(file.members)]
    for at, keys in [(("set",), file.changes), (("grid",), file.grid), *listed]:
        for key in keys:
            if not is_key(key):
                yield Problem((*at, key), "is no key of a recipe; write it as after --set: section.key")
            elif parse_key(key) == (SEED,):
                yield Problem((*at, key), "seeds are given by `seeds: [0, 1, 2]`, so that they are averaged over")
            elif parse_key(key) == (NAME,):
                yield Problem((*at, key), "the runs of a sweep are named by it: after its name and their settings")


def _twice(file: SweepFile) -> Iterator[Problem]:
    """What is given twice: values, seeds, and names and settings of members."""
    for key, values in [*((("grid", key), values) for key, values in file.grid.items()), (("seeds",), file.seeds)]:
        for place, value in enumerate(values):
            if any(value == earlier and type(value) is type(earlier) for earlier in values[:place]):
                yield Problem((*key, place), f"{value!r} is given twice")
    for place, member in enumerate(file.members):
        before = file.members[:place]
        if member.name is not None and any(member.name == earlier.name for earlier in before):
            yield Problem(("members", place, "name"), f"'{member.name}' names an earlier member too")


def _too_many(file: SweepFile) -> Iterator[Problem]:
    points = math.prod(len(values) for values in file.grid.values()) if file.grid or not file.members else 0
    runs = (points + len(file.members)) * max(1, len(file.seeds))
    if runs > MOST:
        yield Problem(("grid",) if file.grid else (), f"asks for {runs:,} runs; a sweep has at most {MOST:,}")


def _overridden(file: SweepFile, overrides: Sequence[str]) -> Iterator[Problem]:
    """Keys that are both set for all runs and swept, which would say nothing."""
    given = {option.partition("=")[0].strip(): f"--set {option}" for option in overrides}
    for key in file.grid:
        if key in file.changes:
            yield Problem(("set", key), "is swept by the grid too; leave it out of one of the two")
        if key in given:
            yield Problem((), f"'{key}' is swept by the grid too; leave it out of one of the two", origin=given[key])
