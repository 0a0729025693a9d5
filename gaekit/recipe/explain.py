"""pydantic's errors as problems in plain words, at the key paths of the document."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gaekit.api import ComponentConfig
from gaekit.errors import Problem
from gaekit.recipe.document import Path
from gaekit.recipe.fit import Model
from gaekit.recipe.suggest import did_you_mean, near

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "none_required": "null",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "model": "a section of keys and values",
    "dict": "keys with values",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


def explain(errors: Iterable[ErrorDetails], data: Any, models: Mapping[Path, Model]) -> list[Problem]:
    """One problem for each thing wrong: a misspelt key and the missing one that it stands for are one, and so are the
    complaints of all members of a union about one value."""
    by_path: dict[Path, list[ErrorDetails]] = defaultdict(list)
    unknown: dict[Path, list[str]] = defaultdict(list)
    missing: dict[Path, list[str]] = defaultdict(list)
    for error in errors:
        path = _in_document(error, data)
        if error["type"] == "extra_forbidden":
            unknown[path[:-1]].append(str(path[-1]))
        elif error["type"] == "missing" and isinstance(path[-1], str):
            missing[path[:-1]].append(path[-1])
        else:
            by_path[path].append(error)
    problems = [Problem(path, _describe(found)) for path, found in by_path.items()]
    for path in {**unknown, **missing}:
        problems += _explain_keys(path, unknown[path], missing[path], _at(data, path), models.get(path))
    return problems


def _in_document(error: ErrorDetails, data: Any) -> Path:
    """pydantic's location without the names of union members, which are no keys of the document."""
    path: list[str | int] = []
    here, location = data, error["loc"]
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        known = here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        if part in known:
            here = here[part]
            path.append(part)
        elif last and error["type"] == "missing":
            path.append(part)
    return tuple(path)


def _at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


def _explain_keys(path: Path, unknown: list[str], missing: list[str], given: Any, model: Model | None) -> list[Problem]:
    fields = _fields(model)
    problems, meant_by_others = [], set()
    for key in unknown:
        meant = near(key, missing, set(fields) - set(given), fields)
        meant_by_others |= set(meant)
        text = did_you_mean(meant) or f" -- {_owner(model, given)}: {', '.join(sorted(fields)) or 'none'}"
        problems.append(Problem((*path, key), f"unknown key{text}"))
    for key in missing:
        if key not in meant_by_others:
            about = fields[key].description if key in fields else None
            problems.append(Problem((*path, key), f"missing{f' -- {about}' if about else ''}"))
    return problems


def stands_for(problem: Problem, fields: Iterable[str]) -> list[str]:
    """The keys that a misspelt top-level key may stand for: what depends on them is not known either."""
    return near(str(problem.path[0]), fields) if len(problem.path) == 1 else []


def _fields(model: Model | None) -> dict[str, Any]:
    return {} if model is None else {info.alias or name: info for name, info in model.model_fields.items()}


def _owner(model: Model | None, given: Any) -> str:
    is_component = model is not None and issubclass(model, ComponentConfig)
    return f"'{given['use']}' knows" if is_component and "use" in given else "known"


def _describe(errors: list[ErrorDetails]) -> str:
    """All complaints about one value, in words."""
    wanted: dict[str, None] = {}
    others: dict[str, None] = {}
    for error in errors:
        text = _wanted(error)
        (others if text is None else wanted)[text or _sentence(error)] = None
    value = errors[0]["input"]
    if not wanted:
        return "; ".join(others)
    if "a number" in wanted:
        wanted.pop("a whole number", None)
    return f"expected {' or '.join(wanted)}, got {show(value)}{_advice(errors, value)}"


def _wanted(error: ErrorDetails) -> str | None:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {context[key]:g}"
    if kind in ("literal_error", "enum"):
        return f"{context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    if kind == "missing":  # of a tuple of fixed length
        return "more entries"
    if kind == "int_from_float":
        return "a whole number"
    base = re.sub(r"_(type|parsing|parsing_size|attributes_type)$", "", kind)
    return _EXPECTED.get(base)


def _sentence(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] in ("value_error", "assertion_error"):
        return str(context.get("error", error["msg"]))
    if error["type"] in ("too_long", "too_short"):
        bound = f"at most {context['max_length']}" if "max_length" in context else f"at least {context['min_length']}"
        return f"expected {bound} entries, got {context['actual_length']}"
    return f"{error['msg'].replace('Input should be', 'expected')}, got {show(error['input'])}"


def _advice(errors: list[ErrorDetails], value: Any) -> str:
    kinds = {error["type"] for error in errors}
    if isinstance(value, str):
        choices = [c for e in errors for c in re.findall(r"'([^']*)'", str(e.get("ctx", {}).get("expected", "")))]
        if near(value, choices):
            return did_you_mean(near(value, choices))
        if kinds & {"bool_type"} and value.lower() in ("yes", "on", "no", "off"):
            return f" -- in YAML 1.2 that is text; write {'true' if value.lower() in ('yes', 'on') else 'false'}"
        if kinds & {"int_type", "float_type"} and _is_number(value):
            return " -- remove the quotes"
    if "string_type" in kinds and isinstance(value, int | float):
        return " -- put it in quotes"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def show(value: Any) -> str:
    """A value as it stands in YAML, shortened."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict | BaseModel):
        return "a section of keys and values"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
