"""A recipe file -> `Recipe`, or one RecipeError with every problem, its line and what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from gaekit.api import ComponentConfig
from gaekit.errors import ArtifactError, Problem, RecipeError
from gaekit.plugins import Registry
from gaekit.recipe.document import BYTES, Document, read_document
from gaekit.recipe.explain import explain, stands_for
from gaekit.recipe.fit import Fitting
from gaekit.recipe.overrides import apply_changes, apply_overrides, as_document, set_value
from gaekit.recipe.rules import Unreadable, broken_rules, doubts
from gaekit.recipe.schema import Recipe
from gaekit.recipe.shipped import find_recipe

M = TypeVar("M", bound=BaseModel)
RECIPE_VERSION = 1
LARGEST_NUMBER = 10**15


@dataclass(frozen=True)
class CheckedRecipe:
    """A valid recipe, where it was read, and what is allowed but probably not meant."""

    recipe: Recipe
    source: str
    warnings: list[Problem]
    document: Document

    def refuse(self, problems: Sequence[Problem]) -> None:
        """Raise a RecipeError, with the lines of the problems, if there are some."""
        if problems:
            raise RecipeError(self.source, [self.document.locate(problem) for problem in problems])


def load_recipe(
    source: Path | str, registry: Registry, *, overrides: Sequence[str] = (), name: str | None = None
) -> Recipe:
    """The recipe at a path, or shipped under a bare name, with `overrides` ("a.b=c") and another `name` for the run.

    Raises RecipeError with all problems, and GaekitError where there is no such recipe.
    """
    return check_recipe(source, registry, overrides=overrides, name=name).recipe


def check_recipe(
    source: Path | str, registry: Registry, *, overrides: Sequence[str] = (), name: str | None = None
) -> CheckedRecipe:
    """As `load_recipe`, with the warnings and the place."""
    document = read_file(find_recipe(source))
    apply_overrides(document, overrides)
    return _named(document, name, registry)


def check_recipe_data(
    source: Path | str | Mapping[str, Any], registry: Registry, *, changes: Mapping[str, Any], name: str | None = None
) -> CheckedRecipe:
    """As `check_recipe` for a recipe that is a path, a name or plain data, with changes as values: {"a.b": 3}."""
    document = _document_of(source) if isinstance(source, Mapping) else read_file(find_recipe(source))
    apply_changes(document, changes)
    return _named(document, name, registry)


def _named(document: Document, name: str | None, registry: Registry) -> CheckedRecipe:
    if name is not None:
        set_value(document, ("name",), name, f"--name {name}")
    return check_document(document, registry)


def _document_of(data: Mapping[str, Any]) -> Document:
    try:
        return Document("recipe", as_document(dict(data)))
    except (TypeError, ValueError) as error:
        raise RecipeError("recipe", [Problem((), f"is no plain data: {error}")]) from error


def read_file(path: Path, what: str = "recipe") -> Document:
    """The data of a recipe's file, or of `what` else is written like one, not looked at yet. Raises RecipeError where
    it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(BYTES + 1)  # a device has no end
        if len(content) > BYTES:
            raise RecipeError(path, [Problem((), f"is longer than {BYTES:,} bytes: not a {what}")])
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(path, [Problem((), f"is not UTF-8 text (byte {error.start})", 1)]) from None
    except OSError as error:
        raise RecipeError(path, [Problem((), f"cannot be read: {error.strerror}")]) from None
    return read_document(text, str(path), what)


def check_document(document: Document, registry: Registry) -> CheckedRecipe:
    """A document as a recipe, with the warnings. Raises RecipeError with all problems."""
    recipe = _validate_recipe(document, registry)
    return CheckedRecipe(recipe, document.source, [document.locate(p) for p in doubts(recipe, registry)], document)


def check_section(model: type[M], document: Document, registry: Registry) -> M:
    """A document as `model`. Raises RecipeError with all problems and their lines."""
    value, problems = _validate(model, document.data, Fitting(registry))
    problems = _outside(document.problems, problems) + document.problems
    if value is None or problems:
        raise RecipeError(document.source, [document.locate(problem) for problem in problems])
    return value


def load_resolved(path: Path, registry: Registry) -> Recipe:
    """The recipe that a run keeps, a component that no plugin here provides as AbsentConfig. The rules between sections
    held when it was run, and are not asked again: what they look at may have moved since.

    Raises ArtifactError where the file is absent, RecipeError where it is damaged.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: the run's recipe is missing; it stands beside run.json")
    document = read_file(path)
    if problem := _version_problem(document.data):
        raise RecipeError(path, [document.locate(problem)])
    recipe, problems = _validate(Recipe, document.data, Fitting(registry, keep_absent=True))
    if recipe is None or problems or document.problems:
        raise RecipeError(path, [document.locate(p) for p in (*problems, *document.problems)])
    return recipe


def load_recipe_data(data: Mapping[str, Any], registry: Registry, *, source: str = "recipe") -> Recipe:
    """A recipe from plain data, such as `dump` gives. Raises RecipeError, without lines."""
    return _validate_recipe(Document(source, dict(data)), registry)


def load_section(model: type[M], data: Mapping[str, Any], registry: Registry, *, source: str) -> M:
    """One section, as an artifact carries it. `source` is named in the RecipeError."""
    value, problems = _validate(model, dict(data), Fitting(registry))
    if value is None:
        raise RecipeError(source, problems)
    return value


def load_component(kind: str, data: Mapping[str, Any], registry: Registry, *, source: str) -> ComponentConfig:
    """The config of one component, `{use: ..., ...}`, typed by its plugin. `source` is named in the RecipeError."""
    cls = registry.find(kind, str(data.get("use")))
    return load_section(cls.Config, data, registry, source=source)


def _validate_recipe(document: Document, registry: Registry) -> Recipe:
    if problem := _version_problem(document.data):
        raise RecipeError(document.source, [document.locate(problem)])
    fitting = Fitting(registry)
    recipe, problems = _validate(Recipe, document.data, fitting)
    problems = _outside(document.problems, problems) + document.problems
    if recipe is not None and not problems:
        problems = list(broken_rules(recipe, registry))
        if not problems:
            return recipe
    elif problems:
        problems += _rules_on_the_rest(document.data, problems, registry)
    raise RecipeError(document.source, [document.locate(p) for p in problems])


def _validate(model: type[M], data: Any, fitting: Fitting) -> tuple[M | None, list[Problem]]:
    """`data` as `model` with each slot typed, or None and what is wrong.

    By way of JSON, because pydantic's strict mode takes a list for a tuple and text for a path there, and yet neither a
    quoted number for a number nor `true` for 1."""
    if giants := list(_giants(data, ())):
        return None, giants
    fitted, filled = fitting.section(model, data)
    problems = list(fitting.problems)
    try:
        value = fitted.model_validate_json(json.dumps(filled), strict=True)
    except ValidationError as error:
        problems += _outside(problems, explain(error.errors(include_url=False), filled, fitting.models))
        return None, problems
    return (fitting.declared(value), problems) if not problems else (None, problems)


def _giants(data: Any, at: tuple[str | int, ...]) -> Iterator[Problem]:
    """Whole numbers that no setting can mean, and that neither a tensor's size nor JSON can hold."""
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _giants(value, (*at, key))
    elif isinstance(data, int) and abs(data) > LARGEST_NUMBER:
        yield Problem(at, "is larger than any number that a setting can be, 2^63 - 1")


def _outside(known: list[Problem], problems: list[Problem]) -> list[Problem]:
    """Those that are not at or below a problem already known: one cause, one line."""
    taken = {p.path for p in known if p.path}
    return [p for p in problems if not any(p.path[:n] in taken for n in range(1, len(p.path) + 1))]


def _version_problem(data: Mapping[str, Any]) -> Problem | None:
    """Another version is the only problem worth telling; a missing one is, unless it is just misspelt."""
    version = data.get("recipe")
    if "sweep" in data and not isinstance(version, int):
        return Problem(("sweep",), "this is a sweep over a recipe; `gaekit sweep FILE` runs it, `--plan` checks it")
    if isinstance(version, int) and not isinstance(version, bool) and version != RECIPE_VERSION:
        text = f"version {version} of the recipe format is not known; this gaekit reads version {RECIPE_VERSION}"
        return Problem(("recipe",), text)
    return None


def _rules_on_the_rest(data: Mapping[str, Any], problems: list[Problem], registry: Registry) -> list[Problem]:
    """The broken rules among the sections that are valid, so that they are told together with the others."""
    fields = set(Recipe.model_fields)
    invalid = {str(p.path[0]) for p in problems if p.path} & fields
    invalid |= {name for p in problems if p.path and p.path[0] not in fields for name in stands_for(p, fields)}
    if any(not p.path for p in problems):
        return []
    model = create_model(  # the same sections, with nothing asked of the invalid ones
        "Rest", __base__=Recipe, **dict.fromkeys(invalid, (Any, None))
    )  # type: ignore[call-overload]
    rest, _ = _validate(model, {k: v for k, v in data.items() if k in fields - invalid}, Fitting(registry))
    return [] if rest is None else list(broken_rules(_Rest(rest, invalid), registry))  # type: ignore[arg-type]


class _Rest:
    """A recipe of which only the valid sections can be read."""

    def __init__(self, recipe: BaseModel, invalid: set[str]):
        self._recipe, self._invalid = recipe, invalid

    def __getattr__(self, name: str) -> Any:
        if name in self._invalid:
            raise Unreadable(name)
        return getattr(self._recipe, name)
