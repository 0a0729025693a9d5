"""Write docs/api.md: what plugins may import, with signatures and what stands in the docstrings.

python docs/make_api.py           write it
python docs/make_api.py --check   say whether it is up to date (exit code 1 if not)
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import gaekit.api
import gaekit.api.assets
import gaekit.api.flow
import gaekit.api.metrics
import gaekit.api.nn
import gaekit.api.weights
from gaekit.api import KINDS, Component, GaekitError

PAGE = Path(__file__).parent / "api.md"
HEAD = """# What plugins import

Written by `python docs/make_api.py` from the docstrings; `make test` sees that it is up to date. How plugins are made
and tested: [plugins.md](plugins.md).

Shape suffixes: B batch, R image side, H W latent grid, F teacher width, E encoder width, M moments, D latent width, N
tokens. Tensors are float32 unless it says otherwise; t = 0 is noise, t = 1 is data. Of K classes labels are 0 to K - 1.

What is stable: `gaekit.api`, `gaekit.api.assets` and `gaekit.api.weights` are the contract. `API_VERSION` is raised
when plugins have to change for it, and a plugin that needs a newer one says so by `GAEKIT_API`. `gaekit.api.nn`,
`gaekit.api.flow` and `gaekit.api.metrics` are what gaekit's own plugins are made of: names and shapes change with a
minor version at most, and the CHANGELOG says how; the names of a block's weights are as stable as the checkpoints of
the networks that hold it. What does not stand here is not for plugins to import.
"""
MODULES: dict[str, ModuleType] = {
    "gaekit.api.nn": gaekit.api.nn,
    "gaekit.api.flow": gaekit.api.flow,
    "gaekit.api.metrics": gaekit.api.metrics,
    "gaekit.api.weights": gaekit.api.weights,
    "gaekit.api.assets": gaekit.api.assets,
}


def page() -> str:
    """The whole page."""
    kinds = set(KINDS.values())
    rest = [getattr(gaekit.api, name) for name in gaekit.api.__all__]
    values = [v for v in rest if inspect.isclass(v) and v not in kinds and not issubclass(v, GaekitError)]
    errors = [v for v in rest if inspect.isclass(v) and issubclass(v, GaekitError)]
    parts = [_text(HEAD), "## Kinds of component\n"]
    parts += [_kind(cls) for cls in KINDS.values()]
    parts += ["## Values and bases\n", *(_class(cls) for cls in values)]
    parts += ["## Functions and constants\n", *_others(gaekit.api)]
    parts += ["## Errors\n", *(_error(cls) for cls in errors)]
    for name, module in MODULES.items():
        parts += [f"## {name}\n", _text(module.__doc__), *_members(module)]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _kind(cls: type[Component]) -> str:
    """A kind: what it is built with, what it must define, what it may."""
    wanted = sorted(getattr(cls, "__abstractmethods__", ()), key=_order(cls))
    may = [name for name in vars(cls) if name not in wanted and _is_public(name) and _is_callable(cls, name)]
    lines = [f"### {cls.kind}: `{cls.__name__}`\n", _text(cls.__doc__)]
    lines.append(f"Built as `{cls.__name__}{_signature(cls.__init__, drop_self=True)}`.\n")
    if fields := list(_attributes(cls)):
        lines.append("".join(f"- `{field}`\n" for field in fields))
    lines += ["Defines:\n", "".join(_method(cls, name) for name in wanted)] if wanted else []
    lines += ["May define:\n", "".join(_method(cls, name) for name in may)] if may else []
    return "\n".join(lines)


def _order(cls: type) -> Any:
    return lambda name: list(vars(cls)).index(name)


def _attributes(cls: type) -> Iterator[str]:
    """Annotated attributes with their defaults: `fit: ... = None`."""
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        if _is_public(name):
            has = name in vars(cls)
            yield f"{name}: {annotation}" + (f" = {_value(vars(cls)[name])}" if has else "")


def _value(value: Any) -> str:
    if inspect.isclass(value):
        return value.__name__
    return f"frozenset({sorted(value)})" if isinstance(value, frozenset) else repr(value)


def _method(cls: type, name: str) -> str:
    member = vars(cls)[name]
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    mark = "classmethod " if isinstance(member, classmethod) else ""
    if isinstance(member, property):
        returned = inspect.signature(function).return_annotation
        return f"- `{name}: {returned}` {_line(function.__doc__)}\n"
    return f"- {mark}`{name}{_signature(function, drop_self=True)}` {_line(function.__doc__)}\n"


def _class(cls: type) -> str:
    lines = [f"### `{cls.__name__}{_constructor(cls)}`\n", _text(cls.__doc__)]
    shown = [name for name in vars(cls) if _is_public(name) and _is_callable(cls, name)]
    if issubclass(cls, Component):
        lines.append("".join(f"- `{field}`\n" for field in _attributes(cls)))
    lines += ["".join(_method(cls, name) for name in shown)] if shown else []
    return "\n".join(lines)


def _constructor(cls: type) -> str:
    if inspect.isabstract(cls) or "__init__" not in vars(cls) or getattr(cls, "_is_protocol", False):
        return ""
    return _signature(cls.__init__, drop_self=True)  # type: ignore[misc]


def _error(cls: type) -> str:
    return f"- `{cls.__name__}` {_line(cls.__doc__)}"


def _others(module: ModuleType) -> Iterator[str]:
    """What is neither a class nor a module: functions with signatures, constants with the text below them."""
    below = _texts_below(module)
    for name in module.__all__:
        member = getattr(module, name)
        if inspect.isclass(member) or inspect.ismodule(member):
            continue
        if inspect.isfunction(member):
            yield f"### `{name}{_signature(member)}`\n\n{_text(member.__doc__)}"
        else:
            yield _constant(name, member, below)


def _constant(name: str, member: Any, below: dict[str, str]) -> str:
    """A constant or a type by the text below it, else by what it is."""
    text = below.get(name) or _below_elsewhere(name)
    return f"### `{name}`\n\n{_text(text)}" if text else f"### `{name} = {_value(member)}`\n"


def _members(module: ModuleType) -> Iterator[str]:
    names = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if _is_own(module, n, v)]
    below = _texts_below(module)
    for name in names:
        member = getattr(module, name)
        if inspect.isclass(member):
            yield _class(member)
        elif inspect.isfunction(member):
            yield f"### `{name}{_signature(member)}`\n\n{_text(member.__doc__)}"
        else:
            yield _constant(name, member, below)


def _is_own(module: ModuleType, name: str, member: Any) -> bool:
    """Public and made there; of constants, those that are explained."""
    if not _is_public(name) or inspect.ismodule(member) or member in vars(gaekit.api).values():
        return False
    if inspect.isclass(member) or inspect.isfunction(member):
        return bool(member.__module__ == module.__name__)
    return name in _texts_below(module)


def _texts_below(module: ModuleType) -> dict[str, str]:
    """The texts that stand below constants."""
    body, found = ast.parse(inspect.getsource(module)).body, {}
    for statement, after in pairwise(body):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
            found |= {t.id: after.value.value for t in targets if isinstance(t, ast.Name)}
    return found


def _below_elsewhere(name: str) -> str:
    """The text below a constant in the module of gaekit that makes it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("gaekit.") and name in vars(module):
            try:
                text = _texts_below(module).get(name)
            except OSError:
                continue
            if text:
                return text
    return ""


class _Source(str):
    """An annotation or a default as it is written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _signature(function: Any, *, drop_self: bool = False) -> str:
    signature = inspect.signature(function)
    parameters = [_as_written(parameter) for parameter in signature.parameters.values()][drop_self:]
    returned = signature.return_annotation
    if returned in ("None", None):
        returned = inspect.Signature.empty
    written = _Source(returned) if isinstance(returned, str) else returned
    return str(signature.replace(parameters=parameters, return_annotation=written))


def _as_written(parameter: inspect.Parameter) -> inspect.Parameter:
    annotation, default = parameter.annotation, parameter.default
    if isinstance(annotation, str):
        annotation = _Source(annotation)
    if inspect.isclass(default) and default is not inspect.Parameter.empty:
        default = _Source(default.__name__)
    return parameter.replace(annotation=annotation, default=default)


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__len__", "__getitem__", "__call__")


def _is_callable(cls: type, name: str) -> bool:
    member = vars(cls)[name]
    if isinstance(member, property):
        return True
    if inspect.isclass(member):
        return False
    return callable(member) or isinstance(member, classmethod | staticmethod)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _text(text: str | None) -> str:
    """A docstring as markdown: each paragraph on one line."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(_paragraph(paragraph) for paragraph in paragraphs) + "\n"


def _paragraph(text: str) -> str:
    if text.startswith("    "):
        return f"```python\n{inspect.cleandoc(text)}\n```"
    return " ".join(text.split())


def main(arguments: list[str]) -> int:
    """Write the page, or with --check say whether it is what it should be."""
    wanted = page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
            return 0
        print(f"{PAGE.name} is out of date: run python docs/make_api.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
