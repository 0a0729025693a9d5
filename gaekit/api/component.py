"""Components: a class with a kind, a name and a typed config. A plugin is a module that lists some."""

from __future__ import annotations

import re
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from gaekit.api.assets import Asset
from gaekit.errors import GaekitError, PluginError

API_VERSION = 1
"""The version of this contract. A plugin that needs a newer one says so by `GAEKIT_API = n` in its module."""


class Slot:
    """Marks a config field that holds another component: `teacher: Annotated[ComponentConfig, Slot("teacher")]`.

    The field may also be `ComponentConfig | None` or `tuple[ComponentConfig, ...]`. When the owner is built, its
    constructor gets under the field's name a factory that builds what the field names (a tuple of factories, or None).
    """

    def __init__(self, kind: str):
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Serialise what stands in the slot as what it is: pydantic alone would write nothing but `use`."""
        as_it_is = core_schema.wrap_serializer_function_ser_schema(
            lambda value, serialize: serialize(value), schema=core_schema.any_schema()
        )
        return cast("CoreSchema", {**handler(source), "serialization": as_it_is})


class ComponentConfig(BaseModel):
    """The settings of a component as they stand in a recipe: `{use: <name>, ...}`. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    use: str


class Component:
    """Base of everything that a recipe can name.

    A kind is a direct subclass here that sets `kind`; a component sets `name`, its `Config`, and raises `revision`
    when its numerics change, so that results cached under the old ones are not taken for the new.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    revision: ClassVar[int] = 1
    former_names: ClassVar[tuple[str, ...]] = ()
    """Names that recipes may still give it; they are refused with the present one."""

    attribution: ClassVar[str | None] = None
    """Who made what this component brings (images, weights) and under which licence, where that must be said wherever
    it is shown: `gaekit components`, run.json and the report say it. One paragraph of plain text."""

    config: Any

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" in cls.__dict__:
            _check_contract(cls)

    @classmethod
    def external(cls, config: Any) -> str | None:
        """Identity of what decides this component's results and is not in the recipe (the sha256 of its weights);
        part of a stage's fingerprint. None where there is nothing of the kind."""
        return None

    @classmethod
    def depends_on_batch(cls, config: Any) -> bool:
        """Whether, in a training, what it gives for an image depends on the other images of the forward pass, as with
        statistics of a batch. A stage that trains with such a component counts the images of a pass, over all
        processes, in its fingerprint: `runtime.micro_batch` then changes results."""
        return False

    @classmethod
    def assets(cls, config: Any) -> tuple[Asset, ...]:
        """The files that this component needs and no package holds: weights to be fetched, files that its settings
        name. `gaekit assets` lists them, a run sees first that they are there. Components in slots tell their own."""
        return ()


def _check_contract(cls: type[Component]) -> None:
    where = f"component {cls.__module__}.{cls.__qualname__}"
    if not getattr(cls, "kind", None):
        raise PluginError(f"{where}: derive from a kind of gaekit.api (Teacher, Encoder, ...), not from Component")
    if not isinstance(cls.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", cls.name):
        raise PluginError(f"{where}: name = {cls.name!r}; a name is lower-case letters, digits and underscores")
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, ComponentConfig)):
        raise PluginError(f"{where}: Config must be a subclass of gaekit.api.ComponentConfig")
    if not (cls.__doc__ or "").strip():
        raise PluginError(f"{where}: needs a docstring; its first line is what `gaekit components` shows")
    if not isinstance(cls.revision, int) or cls.revision < 1:
        raise PluginError(f"{where}: revision = {cls.revision!r}; it counts up from 1")
    if cls.attribution is not None and not (isinstance(cls.attribution, str) and cls.attribution.strip()):
        raise PluginError(f"{where}: attribution = {cls.attribution!r}; it is text, or None")


def require(module: str, *, wanted_by: str, extra: str | None = None) -> Any:
    """Import `module`, or raise a GaekitError that says what installs it: the extra of gaekit of this name, or, with
    None, gaekit itself, which depends on it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = "gaekit" if extra is None else f"gaekit[{extra}]"
        raise GaekitError(
            f"{wanted_by} needs the package that provides '{module}' ({error}); "
            f"install it with: pip install '{package}'"
        ) from error
