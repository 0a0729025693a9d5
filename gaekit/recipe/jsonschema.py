"""The JSON Schema of recipes (2020-12) with the components that are installed, for editors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from gaekit.api import KINDS, ComponentConfig
from gaekit.plugins import Registry, slots, summary
from gaekit.recipe.schema import Recipe

Model = type[BaseModel]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(registry: Registry) -> dict[str, Any]:
    """The schema of a recipe; each slot is one of the registered components, told apart by `use`."""
    builder = _Builder()
    recipe = builder.retyped(Recipe)
    components = {kind: list(_components(kind, builder, registry)) for kind in KINDS}
    models = [recipe, *builder.slots.values(), *(model for models in components.values() for model in models)]
    references, schema = models_json_schema([(model, "validation") for model in models], by_alias=True)
    definitions = schema["$defs"]
    for kind, slot in builder.slots.items():
        options = [references[model, "validation"] for model in components[kind]]
        definition: dict[str, Any] = {"title": kind, "description": (KINDS[kind].__doc__ or "").split("\n")[0]}
        allowed: dict[str, Any] = {"oneOf": options} if options else {"not": {}}  # without components: nowhere
        definitions[_name_of(references[slot, "validation"])] = definition | allowed
    root = definitions.pop(_name_of(references[recipe, "validation"]))
    return {"$schema": DIALECT, **root, "title": "gaekit recipe", "$defs": definitions}


def _name_of(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).removeprefix("#/$defs/")


def _components(kind: str, builder: _Builder, registry: Registry) -> Iterator[Model]:
    for name, cls in sorted(registry.classes[kind].items()):
        about = Field(description=summary(cls))
        base = builder.retyped(cls.Config)
        use: dict[str, Any] = {"use": (Literal[name], about)}
        yield create_model(f"{kind}_{name}", __base__=base, **use)


class _Builder:
    """Copies of models whose slots refer to a definition that stands for any component of their kind."""

    def __init__(self) -> None:
        self.slots: dict[str, Model] = {kind: create_model(f"any_{kind}", __base__=ComponentConfig) for kind in KINDS}
        self._done: dict[Model, Model] = {ComponentConfig: ComponentConfig}

    def retyped(self, model: Model) -> Model:
        if model not in self._done:
            marked = slots(model)
            fields: dict[str, Any] = {}
            for name, info in model.model_fields.items():
                to = self.slots[marked[name]] if name in marked else None
                kind = self._replace(info.annotation, to)
                if kind is not info.annotation:
                    default = ... if info.is_required() else info.get_default(call_default_factory=True)
                    about = Field(default, alias=info.alias, description=info.description)
                    fields[name] = (Annotated[kind, *info.metadata] if info.metadata else kind, about)
            self._done[model] = create_model(model.__name__, __base__=model, **fields) if fields else model
        return self._done[model]

    def _replace(self, annotation: Any, slot: Model | None) -> Any:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return slot if slot is not None and annotation is ComponentConfig else self.retyped(annotation)
        arguments = get_args(annotation)
        replaced = tuple(self._replace(a, slot) for a in arguments)
        if replaced == arguments or get_origin(annotation) is Literal:
            return annotation
        origin = get_origin(annotation)
        if origin is tuple:
            return tuple.__class_getitem__(replaced)
        return reduce(or_, replaced)
