"""Fitting the schema to a document: at every depth, each slot is typed as the config that its `use:` names there, and
each choice of sections as the one that its keys fit.

One validation then sees everything, and the places of its errors are key paths.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from gaekit.api import ComponentConfig
from gaekit.errors import Problem
from gaekit.plugins import Registry, slots
from gaekit.recipe.document import Path
from gaekit.recipe.suggest import hint, near

Model = type[BaseModel]


class AbsentConfig(ComponentConfig):
    """The settings of a component that no plugin provides here, as they stand: nothing can be built from them."""

    model_config = ConfigDict(extra="allow")


@dataclass
class Fitting:
    """What fitting found: problems with components, and which model stands at each mapping of the document.

    With `keep_absent`, a component that no plugin provides is no problem but an AbsentConfig.
    """

    registry: Registry
    keep_absent: bool = False
    problems: list[Problem] = field(default_factory=list)
    models: dict[Path, Model] = field(default_factory=dict)
    fitted: dict[Model, Model] = field(default_factory=dict)

    def section(self, model: Model, data: Any, at: Path = ()) -> tuple[Model, Any]:
        """`model` with its slots typed for `data`, and `data` with the defaults that hold components written out."""
        self.models[at] = model
        if not isinstance(data, dict):
            return model, data
        filled, typed = dict(data), {}
        marked = slots(model)
        for name, info in model.model_fields.items():
            key = info.alias or name
            if key not in filled and (default := _spelled_out(info)) is not None:
                filled[key] = default
            if filled.get(key) is None:
                continue
            if name in marked:
                kind, filled[key] = self._slot(marked[name], info, filled[key], (*at, key))
            else:
                kind, filled[key] = self._value(info.annotation, filled[key], (*at, key))
            if kind is not info.annotation:
                typed[name] = kind
        return self._refit(model, typed), filled

    def declared(self, value: Any) -> Any:
        """A validated value as the declared classes again, which compare and pickle; the fitted ones served one
        document."""
        if isinstance(value, tuple):
            return tuple(self.declared(item) for item in value)
        model = self.fitted.get(type(value))
        if model is None:
            return value
        fields = {name: self.declared(getattr(value, name)) for name in model.model_fields}
        return model.model_construct(value.model_fields_set, **fields)

    def _refit(self, model: Model, typed: dict[str, Any]) -> Model:
        """A subclass of `model` whose fields `typed` have those types (all given in the document: no defaults)."""
        if not typed:
            return model
        fields: dict[str, Any] = {
            name: Annotated[kind, Field(alias=model.model_fields[name].alias)] for name, kind in typed.items()
        }
        fitted = create_model(model.__name__, __base__=model, __module__=model.__module__, **fields)
        self.fitted[fitted] = model
        return fitted

    def _value(self, annotation: Any, value: Any, at: Path) -> tuple[Any, Any]:
        choices = [member for member in members(annotation) if _is_model(member)]
        if choices:
            return self.section(choose(choices, value), value, at)
        if get_origin(annotation) is tuple and isinstance(value, list) and _is_model(get_args(annotation)[0]):
            pairs = [self._value(get_args(annotation)[0], item, (*at, i)) for i, item in enumerate(value)]
            return (tuple[tuple(kind for kind, _ in pairs)] if pairs else annotation), [v for _, v in pairs]  # type: ignore[misc]
        return annotation, value

    def _slot(self, kind: str, info: FieldInfo, value: Any, at: Path) -> tuple[Any, Any]:
        many = any(get_origin(member) is tuple for member in members(info.annotation))
        if not many:
            return self._component(kind, value, at)
        if not isinstance(value, list):
            return info.annotation, value
        least = max((getattr(mark, "min_length", 0) or 0 for mark in info.metadata), default=0)
        if len(value) < least:  # the fitted type has the document's own length, so the bound is checked here
            self.problems.append(Problem(at, f"expected at least {least} entries, got {len(value)}"))
        pairs = [self._component(kind, item, (*at, i)) for i, item in enumerate(value)]
        return (tuple[tuple(kind for kind, _ in pairs)] if pairs else info.annotation), [v for _, v in pairs]  # type: ignore[misc]

    def _component(self, kind: str, value: Any, at: Path) -> tuple[Any, Any]:
        known = self.registry.classes[kind]
        if not isinstance(value, dict):
            example = value if isinstance(value, str) and value in known else min(known, default="name")
            self.problems.append(Problem(at, f"expected a {kind}: {{use: {example}, ...}}"))
            return Any, value
        key = "use" if "use" in value else next(iter(near("use", value)), None)
        if key is None:
            self.problems.append(Problem(at, f"say which {kind} with 'use: <name>'{hint('', known)}"))
            return Any, value
        name = value[key]
        cls = known.get(name) if isinstance(name, str) else None
        if cls is None and self.keep_absent and isinstance(name, str):
            return self.section(AbsentConfig, value, at)
        if cls is None and (now := self.registry.renamed(kind, str(name))) is not None:
            self.problems.append(Problem((*at, key), f"unknown {kind} '{name}' -- it is called '{now}' now"))
            cls = known[now]
        if cls is None:
            if isinstance(name, str) and (clash := self.registry.clash(kind, name)):
                self.problems.append(Problem((*at, key), clash))
                return Any, value
            meant = near(str(name), known)
            text = f"unknown {kind} '{name}'{hint(str(name), known)}{self.registry.notes}"
            self.problems.append(Problem((*at, key), text))
            if len(meant) != 1:
                return Any, value
            cls = known[meant[0]]  # so that what is wrong inside it is told at once too
        return self.section(cls.Config, value, at)


def choose(models: list[Model], data: Any) -> Model:
    """Which of several sections a mapping is (`{from: PATH}` against a section's own settings): the one with the fewest
    keys that it does not know, then with the most that it does, then with the most required ones."""
    if not isinstance(data, dict) or len(models) == 1:
        return models[0]

    def misfit(model: Model) -> tuple[int, int, int]:
        required = {info.alias or name for name, info in model.model_fields.items() if info.is_required()}
        keys = {info.alias or name for name, info in model.model_fields.items()}
        understood = [key for key in data if key in keys or near(key, keys - set(data))]
        return len(data) - len(understood), -len(understood), -len(required & set(data))

    return min(models, key=misfit)


def _spelled_out(info: FieldInfo) -> Any:
    """The default of a field as document data, if components may stand in it."""
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json", by_alias=True)
    if isinstance(default, tuple) and any(isinstance(item, ComponentConfig) for item in default):
        return [item.model_dump(mode="json", by_alias=True) for item in default]
    return None


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
