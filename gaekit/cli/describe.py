"""Settings of components in words."""

from __future__ import annotations

import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gaekit.api import ComponentConfig
from gaekit.plugins import slots

_WORDS = {
    int: "whole number",
    float: "number",
    bool: "true | false",
    str: "text",
    type(None): "null",
    Path: "path",
    Any: "anything",
}
_BOUNDS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "multiple_of": "multiple of",
    "min_length": "length >=",
    "max_length": "length <=",
    "pattern": "of the form",
}


@dataclass(frozen=True)
class Setting:
    """One key of a component's config, as a person reads it."""

    key: str
    type: str
    default: str
    about: str


def settings(config: type[BaseModel]) -> list[Setting]:
    """The keys of a config but `use`, sections inside it as `section.key`."""
    found = []
    marked = slots(config)
    for name, info in config.model_fields.items():
        key = info.alias or name
        if name == "use" and issubclass(config, ComponentConfig):
            continue
        words = type_in_words(info.annotation, marked.get(name))
        if bounds := _bounds(info):
            words += f" ({bounds})"
        found.append(Setting(key, words, _default(info), info.description or ""))
        found += [
            Setting(f"{key}.{inner.key}", inner.type, inner.default, inner.about)
            for model in _sections(info.annotation, marked.get(name))
            for inner in settings(model)
        ]
    return found


def type_in_words(annotation: Any, slot: str | None = None) -> str:
    """`whole number`, `'mean' | 'moments'`, `list of {use: <metric>}`."""
    if slot is not None and annotation is ComponentConfig:
        return f"{{use: <{slot}>}}"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = _bounds_of(arguments[1:])
        return type_in_words(arguments[0], slot) + (f" ({bounds})" if bounds else "")
    if origin is Literal:
        return " | ".join(str(a) if not isinstance(a, str) else f"'{a}'" for a in arguments)
    if origin in (Union, types.UnionType):
        words = [type_in_words(a, slot) for a in arguments]
        return " | ".join(dict.fromkeys(words))
    if origin in (tuple, list, set, frozenset):
        inner = [type_in_words(a, slot) for a in arguments if a is not Ellipsis]
        any_length = origin is not tuple or Ellipsis in arguments
        return f"list of {inner[0]}" if any_length else f"[{', '.join(inner)}]"
    if origin is dict:
        return f"{{{type_in_words(arguments[0])}: {type_in_words(arguments[1])}}}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _sections(annotation: Any, slot: str | None) -> list[type[BaseModel]]:
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return [] if slot else [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]


def _bounds(info: FieldInfo) -> str:
    return _bounds_of(info.metadata)


def _bounds_of(marks: Any) -> str:
    texts = []
    for mark in marks:
        inner = [*getattr(mark, "metadata", ())] if isinstance(mark, FieldInfo) else [mark]
        for item in inner:
            texts += [
                f"{sign} {getattr(item, name)}"
                for name, sign in _BOUNDS.items()
                if getattr(item, name, None) is not None
            ]
    return ", ".join(dict.fromkeys(texts))


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, ComponentConfig):
        return f"{{use: {value.use}}}"
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, tuple):
        return f"[{', '.join(_plain(v) for v in value)}]"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, ComponentConfig):
        return f"{{use: {value.use}}}"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )
