"""`--set a.b[0].c=value`: changes to a recipe from the command line or from Python, checked like the file itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gaekit.errors import Problem
from gaekit.recipe.document import Document, Path, read_value

_KEY = re.compile(r"^[^.\[\]=\s]+(?:\[\d+\]|\.[^.\[\]=\s]+)*$")


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Write each `key=value` into the data, in order; what is wrong joins the document's problems, under the option."""
    for override in overrides:
        origin = f"--set {override}"
        key, equals, text = override.partition("=")
        if not equals or not is_key(key.strip()):
            document.problems.append(Problem((), "write it as --set section.key=value", origin=origin))
            continue
        value, problems = read_value(text)
        path = parse_key(key.strip())
        document.problems += [Problem((*path, *p.path), p.text, origin=origin) for p in problems]
        if not problems:
            set_value(document, path, value, origin)


def apply_changes(document: Document, changes: Mapping[str, Any]) -> None:
    """Write each value at its key into the data, in order, as `apply_overrides` does with text. What is no plain data
    (text, numbers, booleans, None, lists and mappings of these, paths) is a problem."""
    for key, value in changes.items():
        origin = f"set {key}"
        if not is_key(key):
            document.problems.append(Problem((), f"{key!r} is no key; write it as section.key", origin=origin))
            continue
        try:
            plain = as_document(value)
        except (TypeError, ValueError) as error:
            document.problems.append(Problem(parse_key(key), f"is no plain data: {error}", origin=origin))
            continue
        set_value(document, parse_key(key), plain, origin)


def as_document(value: Any) -> Any:
    """A copy of a value as the data of a YAML file: tuples as lists, paths as text. Raises TypeError and ValueError for
    what no such file could hold."""
    return json.loads(json.dumps(value, default=os.fspath))


def is_key(text: str) -> bool:
    """Whether a text is a key path as a person writes it: `a.b[0].c`."""
    return _KEY.match(text) is not None


def parse_key(key: str) -> Path:
    """The path that a key names."""
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)
    words = (index or word for index, word in parts)
    return tuple(int(word) if word.isdecimal() and len(word) < 10 else word for word in words)


def set_value(document: Document, path: Path, value: Any, origin: str) -> None:
    """Put `value` at `path`, making sections on the way; `origin` is named in errors about it."""
    here: Any = document.data
    for depth, part in enumerate(path):
        at = path[:depth]
        last = depth == len(path) - 1
        if isinstance(here, list):
            index = part if isinstance(part, int) else -1
            if not 0 <= index < len(here):
                text = f"there is no entry '{part}' in this list of {len(here)}"
                document.problems.append(Problem(at, text, origin=origin))
                return
            key: Any = index
        elif isinstance(here, dict):
            key = str(part)
        else:
            document.problems.append(Problem(at, f"holds a single value, so there is no '{part}' in it", origin=origin))
            return
        if last:
            here[key] = value
            _forget(document, (*at, key))
            document.origins[(*at, key)] = origin
        elif isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
            document.origins[(*at, key)] = origin
        here = here[key]


def _forget(document: Document, path: Path) -> None:
    for known in (document.lines, document.origins):
        for key in [key for key in known if key[: len(path)] == path]:
            del known[key]
