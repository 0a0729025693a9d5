"""A recipe file as plain data that remembers its lines: YAML 1.2 numbers and words, no key twice, `${VAR}` filled in,
`--set` applied."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gaekit.errors import Problem, RecipeError

Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
CORE_SCHEMA: dict[Any, list[tuple[str, re.Pattern[str]]]] = {
    None: [
        (_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$")),
        (_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")),
        (_TAG + "int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")),
        (_TAG + "float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")),
        (_TAG + "float", re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")),
    ]
}
"""Plain words that are not text, by the core schema of YAML 1.2: `1e-4` is a number, `on` and `yes` are text."""

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


class CoreLoader(yaml.SafeLoader):
    """Composes nodes with the words of YAML 1.2."""

    yaml_implicit_resolvers = CORE_SCHEMA


@dataclass
class Document:
    """The data of a recipe, the line of each key path, the options that set some of them, and what is wrong so far."""

    source: str
    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    origins: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def locate(self, problem: Problem) -> Problem:
        """`problem` with the line or the option where its path, or the nearest key above it, was written."""
        if problem.line is not None or problem.origin is not None:
            return problem
        for length in range(len(problem.path), -1, -1):
            key = problem.path[:length]
            if key in self.origins:
                return Problem(problem.path, problem.text, origin=self.origins[key])
            if key in self.lines:
                return Problem(problem.path, problem.text, self.lines[key])
        return problem


def read_document(text: str, source: str) -> Document:
    """Parse the text of a recipe. Raises RecipeError where the YAML itself is broken or is no mapping."""
    try:
        root = yaml.compose(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        raise RecipeError(source, [_syntax_problem(error)]) from None
    if root is None:
        raise RecipeError(source, [Problem((), "the recipe is empty", 1)])
    if not isinstance(root, MappingNode):
        kind = "a list" if isinstance(root, SequenceNode) else "a single value"
        raise RecipeError(source, [Problem((), f"a recipe is a mapping of keys to values, this is {kind}", 1)])
    reader = _Reader()
    data = reader.read(root, ())
    return Document(source, data, reader.lines, problems=reader.problems)


def read_value(text: str) -> tuple[Any, list[Problem]]:
    """One YAML value, as `--set` takes it, with what is wrong in it."""
    try:
        root = yaml.compose(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        return None, [_syntax_problem(error)]
    reader = _Reader()
    return (None if root is None else reader.read(root, ())), reader.problems


def _syntax_problem(error: yaml.YAMLError) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        text = error.problem or error.context or "cannot be read"
        if "'\\t'" in text:
            text = "a tab cannot indent in YAML; use spaces"
        elif error.context and error.problem:
            text = f"{error.problem} ({error.context})"
        return Problem((), f"not valid YAML: {text}", error.problem_mark.line + 1)
    reason = getattr(error, "reason", None) or str(error).splitlines()[0]
    return Problem((), f"not valid YAML: {reason}", 1)


class _Reader:
    """Turns nodes into data, noting lines and problems on the way."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {(): 1}
        self.problems: list[Problem] = []
        self._open: set[int] = set()

    def read(self, node: Node, at: Path) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node, at)
        if id(node) in self._open:
            self._complain(at, f"'*alias' refers to what it stands in (line {node.start_mark.line + 1})")
            return None
        self._open.add(id(node))
        try:
            return self._mapping(node, at) if isinstance(node, MappingNode) else self._sequence(node, at)
        finally:
            self._open.discard(id(node))

    def _sequence(self, node: Node, at: Path) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            self.lines[(*at, index)] = item.start_mark.line + 1
            items.append(self.read(item, (*at, index)))
        return items

    def _mapping(self, node: MappingNode, at: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self.problems.append(Problem(at, "a key is a single word, not a list or a mapping", line))
            elif key.value == "<<" and key.style is None:
                text = "merge keys are not part of YAML 1.2; repeat the keys, or use an anchor for a whole value"
                self.problems.append(Problem((*at, "<<"), text, line))
            elif key.value in data:
                first = self.lines[(*at, key.value)]
                self.problems.append(Problem((*at, key.value), f"key given twice, first on line {first}", line))
            else:
                self.lines[(*at, key.value)] = line
                data[key.value] = self.read(value, (*at, key.value))
        return data

    def _scalar(self, node: ScalarNode, at: Path) -> Any:
        text, tag = node.value, node.tag
        if tag == _TAG + "str" and "${" in text:
            text = self._fill(text, at)
            if node.style is None:  # unquoted: `steps: ${STEPS:-100}` is a number
                tag = plain_tag(text)
        if tag not in _CONSTRUCT:
            self._complain(at, f"the tag {tag.replace(_TAG, '!!')} has no meaning here")
            return None
        try:
            return _CONSTRUCT[tag](text)
        except ValueError:
            self._complain(at, f"'{text}' is not a {tag.removeprefix(_TAG)}")
            return None

    def _fill(self, text: str, at: Path) -> str:
        def value(match: re.Match[str]) -> str:
            name, default = match.groups()
            if match[0] == "$${":
                return "${"
            if name is None:
                self._complain(
                    at, f"'{text}': '${{' begins a variable: ${{NAME}} or ${{NAME:-default}}; a literal '${{' is '$${{'"
                )
                return ""
            given = os.environ.get(name)
            if default is not None:
                return given or default  # as in a shell: `:-` also replaces an empty value
            if given is None:
                self._complain(
                    at, f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-default}}"
                )
                return ""
            return given

        return _VARIABLE.sub(value, text)

    def _complain(self, at: Path, text: str) -> None:
        self.problems.append(Problem(at, text, self.lines[at]))


def plain_tag(text: str) -> str:
    """The tag of an unquoted word."""
    return next((tag for tag, pattern in CORE_SCHEMA[None] if pattern.match(text)), _TAG + "str")


def _number(text: str) -> int | float:
    word = text.lower()
    if word.endswith(("inf", "nan")):
        return float(word.replace(".", ""))
    value = float(word)
    whole = "e" in word and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value  # `2e5` counts steps as well as 200000


_CONSTRUCT: dict[str, Any] = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": lambda text: int(text, 10 if text.lstrip("+-").isdigit() else 0),
    _TAG + "float": _number,
    _TAG + "str": str,
}
