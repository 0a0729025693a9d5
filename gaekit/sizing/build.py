"""Whether the networks of a recipe can be built: found without memory, before anything is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from gaekit.api import ComponentConfig, Teacher
from gaekit.errors import GaekitError, PluginError, Problem
from gaekit.plugins import Registry, config_of
from gaekit.recipe.schema import Recipe
from gaekit.sizing.describe import trained_networks

Path = tuple[str | int, ...]
MOST_TENSORS = 10_000
"""Parameters of one recipe's networks: the largest published ones have some hundreds, and a network of more would be
built for hours."""
WITHOUT_MEMORY = ("meta tensor", "meta device")
"""What torch says where a network cannot be built without memory, which is no fault of the recipe."""


def build_problems(recipe: Recipe, registry: Registry) -> list[Problem]:
    """What is found only when the recipe's networks are built, and the teacher's layer looked up, at the component's
    key: heads that do not divide a width, sizes that no tensor can have, layers that there are not. Raises PluginError
    where a plugin breaks its contract."""
    teacher = registry.find("teacher", recipe.teacher.use) if recipe.teacher else None
    try:
        if recipe.teacher and teacher is not None and issubclass(teacher, Teacher):
            teacher.width(recipe.teacher)
    except GaekitError as error:
        return [_problem(recipe, error, recipe.teacher)]
    try:
        with _few_tensors():
            _ = trained_networks(recipe, registry, None)
    except PluginError:  # no fault of the recipe
        raise
    except Exception as error:
        if any(sign in str(error) for sign in WITHOUT_MEMORY):
            return []
        return [_problem(recipe, error, config_of(error))]
    return []


@contextmanager
def _few_tensors() -> Iterator[None]:
    """Raise GaekitError where modules get more parameters than any network that is trained."""
    count = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > MOST_TENSORS:
            raise GaekitError(f"has more than {MOST_TENSORS:,} tensors of weights, too many to be built or trained")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def _problem(recipe: Recipe, error: Exception, config: ComponentConfig | None) -> Problem:
    """At the setting that the message begins with, else at the component."""
    path = next(_places(recipe, config, ()), ()) if config is not None else ()
    text = str(error).splitlines()[0] if str(error) else ""
    setting, colon, rest = text.removeprefix(f"{Problem(path, '').dotted}.").partition(": ")
    if isinstance(error, GaekitError) and colon and config is not None and setting in type(config).model_fields:
        return Problem((*path, setting), rest)
    if not isinstance(error, GaekitError):
        text = f"cannot be built: {type(error).__name__}: {text}"
    own = () if config is None else tuple((*path, name) for name in type(config).model_fields)
    return Problem(path, text if path else f"its networks cannot be built: {text}", related=own)


def _places(value: Any, wanted: ComponentConfig, at: Path) -> Iterator[Path]:
    """Where in a recipe a config stands."""
    if value is wanted:
        yield at
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _places(getattr(value, name), wanted, (*at, name))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _places(item, wanted, (*at, number))
