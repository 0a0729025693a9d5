"""The runs of a sweep: each an ordinary run of the recipe, checked before any is started."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from gaekit.errors import GaekitError, Problem, RecipeError
from gaekit.plugins import Registry
from gaekit.recipe import canonical
from gaekit.recipe.document import Document, read_value
from gaekit.recipe.load import CheckedRecipe, check_document, read_file
from gaekit.recipe.overrides import parse_key, set_value
from gaekit.recipe.schema import Recipe
from gaekit.recipe.shipped import find_recipe
from gaekit.sizing.build import build_problems
from gaekit.sweeps.definition import NAME, SEED, Definition, Setting


@dataclass(frozen=True)
class Member:
    """One run of a sweep: a setting with a seed (None: the recipe's own). `command` are the arguments of `gaekit` that
    make it, but for `--out`."""

    label: str
    setting: Setting
    seed: int | None
    recipe: Recipe
    command: tuple[str, ...]

    @property
    def run(self) -> str:
        """The run's folder in `runs/`."""
        return self.recipe.name


@dataclass(frozen=True)
class Sweep:
    """A sweep whose every run has a valid recipe; `warnings` are what is allowed but probably not meant."""

    definition: Definition
    members: tuple[Member, ...]
    warnings: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.definition.name

    def of(self, setting: Setting) -> list[Member]:
        """The runs of a setting, in the order of the seeds."""
        return [member for member in self.members if member.setting is setting]

    def part(self, settings: Sequence[str] = (), seeds: Sequence[int] = ()) -> Sweep:
        """The sweep with the runs of these settings and seeds alone; of neither, all. Raises GaekitError for one that
        it has not."""
        for what, wanted, there in (
            ("setting", settings, [setting.label for setting in self.definition.settings]),
            ("seed", seeds, list(self.definition.seeds)),
        ):
            for one in wanted:
                if one not in there:
                    known = ", ".join(map(str, there)) if there != [None] else f"none but the recipe's own {what}"
                    raise GaekitError(f"sweep '{self.name}' has no {what} {one}; it has {known}")
        chosen = [
            member
            for member in self.members
            if (not settings or member.setting.label in settings) and (not seeds or member.seed in seeds)
        ]
        return replace(self, members=tuple(chosen))


def check_members(definition: Definition, registry: Registry, *, build: bool = True) -> Sweep:
    """Every run of a sweep, with its networks built without memory if `build`. Raises RecipeError with all that is
    wrong with any run, each thing once, at the line of the sweep, the option or the line of the recipe where it was
    written."""
    path = find_recipe(definition.recipe)
    document = read_file(path)
    problems: dict[Problem, None] = {}
    checked: dict[Setting, CheckedRecipe] = {}
    for setting in definition.settings:
        try:
            checked[setting] = _check(setting, definition, deepcopy(document), registry)
            checked[setting].refuse(build_problems(checked[setting].recipe, registry) if build else ())
        except RecipeError as error:
            problems |= dict.fromkeys(error.problems)
    problems |= dict.fromkeys(_alike(checked))
    if problems:
        raise RecipeError(path, list(problems))
    members = [m for setting in definition.settings for m in _members(setting, checked[setting].recipe, definition)]
    warnings = dict.fromkeys(warning for found in checked.values() for warning in found.warnings)
    return Sweep(definition, tuple(members), tuple(warnings))


def _check(setting: Setting, definition: Definition, document: Document, registry: Registry) -> CheckedRecipe:
    for change in (*definition.common, *setting.changes):
        set_value(document, parse_key(change.key), deepcopy(change.value), change.origin)
    set_value(document, (NAME,), f"{definition.name}.{setting.label}", definition.source)
    return check_document(document, registry)


def _alike(checked: Mapping[Setting, CheckedRecipe]) -> Iterator[Problem]:
    """Settings whose recipes are the same, so that the same runs would stand in the table twice."""
    seen: dict[str, Setting] = {}
    for setting, found in checked.items():
        recipe = canonical(found.recipe)
        key = json.dumps({name: value for name, value in recipe.items() if name != NAME}, sort_keys=True)
        if (first := seen.setdefault(key, setting)) is not setting:
            origin = setting.changes[-1].origin if setting.changes else None
            text = f"'{setting.label}' is the same experiment as '{first.label}'; leave one of them out"
            yield Problem((), text, origin=origin)


def _members(setting: Setting, recipe: Recipe, definition: Definition) -> Iterator[Member]:
    for seed in definition.seeds:
        words = [setting.label] if seed is None or len(definition.settings) > 1 or setting.changes else []
        label = "-".join([*words, *([] if seed is None else [f"seed_{seed}"])])
        name = f"{definition.name}.{label}"
        own = recipe.model_copy(update={"name": name} | ({} if seed is None else {"seed": seed}))
        changes = [f"{change.key}={_as_yaml(change.value)}" for change in (*definition.common, *setting.changes)]
        changes += [] if seed is None else [f"{SEED}={seed}"]
        yield Member(label, setting, seed, own, _command(definition.recipe, changes, name))


def _command(recipe: str, changes: Iterable[str], name: str) -> tuple[str, ...]:
    options = [word for change in changes for word in ("--set", change)]
    return ("run", recipe, *options, "--name", name)


def _as_yaml(value: Any) -> str:
    """A value as `--set` reads it, on one line: YAML takes JSON, in which a variable's beginning is escaped."""
    if isinstance(value, str) and value.isidentifier() and read_value(value)[0] == value:
        return value  # as a person would write it
    return json.dumps(value, ensure_ascii=False).replace("${", "$${")


def value_of(recipe: Mapping[str, Any], key: str) -> Any:
    """What stands at a key of a recipe's plain data (`dump`); None where there is no such key."""
    here: Any = recipe
    for part in parse_key(key):
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            return None
    return here
