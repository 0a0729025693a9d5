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


DEPTH = 64
"""How deep lists and mappings may lie within each other; recipes reach about ten."""
VALUES = 100_000
"""How many values a recipe may hold, each `*alias` counted as all that it stands for."""
BYTES = 10_000_000
"""The largest file that is read as a recipe."""

ALLOWED_IN_URLS = ("GAEKIT_DATA_URL",)
"""Variables of the environment that may be filled into a URL, and so are sent to whoever the recipe names there."""
_WHOLE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]")


class _Refused(Exception):
    """What would take all memory or time to read."""

    def __init__(self, text: str, line: int):
        self.problem = Problem((), text, line)


class CoreLoader(yaml.SafeLoader):
    """Composes nodes with the words of YAML 1.2, none deeper than `DEPTH`."""

    yaml_implicit_resolvers = CORE_SCHEMA
    _depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """As yaml's own, which calls itself for what lies within."""
        if self._depth > DEPTH:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise _Refused(f"values lie more than {DEPTH} deep within each other", line)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


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
        for key in (problem.path, *problem.related):
            if key in self.origins:
                return Problem(problem.path, problem.text, origin=self.origins[key])
        for length in range(len(problem.path), -1, -1):
            key = problem.path[:length]
            if key in self.origins:
                return Problem(problem.path, problem.text, origin=self.origins[key])
            if key in self.lines:
                return Problem(problem.path, problem.text, self.lines[key])
        return problem


def read_document(text: str, source: str, what: str = "recipe") -> Document:
    """Parse the text of a recipe, or of `what` else it is. Raises RecipeError where the YAML itself is broken, is no
    mapping, or is deeper or longer than any recipe."""
    try:
        root, data, reader = _read(text)
    except (yaml.YAMLError, _Refused) as error:
        raise RecipeError(source, [_syntax_problem(error)]) from None
    if root is None:
        raise RecipeError(source, [Problem((), f"the {what} is empty", 1)])
    if not isinstance(root, MappingNode):
        kind = "a list" if isinstance(root, SequenceNode) else "a single value"
        raise RecipeError(source, [Problem((), f"a {what} is a mapping of keys to values, this is {kind}", 1)])
    return Document(source, data, reader.lines, problems=reader.problems)


def read_value(text: str) -> tuple[Any, list[Problem]]:
    """One YAML value, as `--set` takes it, with what is wrong in it."""
    try:
        _, data, reader = _read(text)
    except (yaml.YAMLError, _Refused) as error:
        return None, [_syntax_problem(error)]
    return data, reader.problems


def _read(text: str) -> tuple[Node | None, Any, _Reader]:
    root, reader = yaml.compose(text, Loader=CoreLoader), _Reader()
    return root, None if root is None else reader.read(root, ()), reader


def _syntax_problem(error: yaml.YAMLError | _Refused) -> Problem:
    if isinstance(error, _Refused):
        return error.problem
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
        self._values = 0

    def read(self, node: Node, at: Path) -> Any:
        self._values += 1
        if self._values > VALUES or len(at) > DEPTH:
            most = f"{VALUES:,} values" if self._values > VALUES else f"{DEPTH} levels"
            raise _Refused(f"holds more than {most}, once each '*alias' is what it stands for", self.lines[at[:1]])
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
        taken: list[str] = []

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
            if given and name not in ALLOWED_IN_URLS and not _is_own_url(match, given):
                taken.append(name)
            if default is not None:
                return given or default  # as in a shell: `:-` also replaces an empty value
            if given is None:
                self._complain(
                    at, f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-default}}"
                )
                return ""
            return given

        filled = _VARIABLE.sub(value, text)
        if taken and ("://" in filled or {":", "{"} <= set(filled)):  # braces may hide what becomes a URL
            self._complain(at, _sent(text, taken))
        return filled

    def _complain(self, at: Path, text: str) -> None:
        self.problems.append(Problem(at, text, self.lines[at]))


def _is_own_url(match: re.Match[str], value: str) -> bool:
    """Whether the variable itself says where the URL leads, with nothing but a path after it: no other gets it."""
    after = match.string[match.end() : match.end() + 1]
    return match.start() == 0 and after in ("", "/") and _WHOLE_URL.match(value) is not None


def _sent(text: str, names: list[str]) -> str:
    each = ", ".join(dict.fromkeys(names))
    return (
        f"'{text}' would send the environment variable {each} to the address that the recipe names; only "
        f"{', '.join(ALLOWED_IN_URLS)} may stand in a URL, or a variable that holds the whole address: write the value "
        "itself, or set it by --set"
    )


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
