"""The components that decide a stage's result: those of the recipe, and those that an artifact was made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gaekit.api import KINDS, ComponentConfig
from gaekit.errors import ArtifactError
from gaekit.plugins import Registry, nested, slots
from gaekit.recipe import canonical
from gaekit.recipe.load import load_component
from gaekit.recipe.schema import Recipe
from gaekit.stages.stage import Stage
from gaekit.store.artifact import open_artifact
from gaekit.store.files import sha256_json

Found = tuple[str, ComponentConfig]
"""A component: its kind, and its settings."""


def in_parts(parts: Mapping[str, Any]) -> Iterator[Found]:
    """Every component in fields of a recipe, those in slots of others included."""
    kinds = slots(Recipe)
    for name, value in parts.items():
        yield from within(kinds.get(name, ""), value)


def within(kind: str, value: Any) -> Iterator[Found]:
    """The component itself, where `value` is one, and those below it."""
    if isinstance(value, ComponentConfig):
        yield kind, value
    if isinstance(value, BaseModel):
        yield from nested(value)


def in_artifact(stage: Stage, artifact: Path, registry: Registry) -> Iterator[Found]:
    """Every component that a stage's artifact was made of, by what its head says; none of one that has no such head.

    Raises ArtifactError where it cannot be read, RecipeError and PluginError where such a component is not known here.
    """
    if stage.kind is None:
        return
    for name, settings in open_artifact(artifact, stage.kind).config.items():
        if name in KINDS:
            if not isinstance(settings, Mapping):
                raise ArtifactError(f"{artifact}: what its head holds under '{name}' is no component")
            yield from within(name, load_component(name, settings, registry, source=str(artifact)))


def component_facts(found: Iterable[Found], registry: Registry) -> dict[str, Any]:
    """What of components decides a result and stands in no recipe: {"kind:name:settings": {revision, external}}."""
    facts: dict[str, Any] = {}
    for kind, config in found:
        cls = registry.find(kind, config.use)
        own: dict[str, Any] = {"revision": cls.revision}
        if (external := cls.external(config)) is not None:
            own["external"] = external
        facts[f"{kind}:{config.use}:{sha256_json(canonical(config))[:8]}"] = own
    return facts


def images_a_pass(stage: Stage, recipe: Recipe, registry: Registry, processes: int) -> int | None:
    """Images of one forward pass over all processes, where that decides a training's result: where what it computes
    for an image depends on the others of the pass, and the pass is not the whole batch. None elsewhere."""
    section, train = stage.section(recipe), stage.training(recipe)
    if section is None or train is None:
        return None
    found = in_parts(stage.parts(recipe))
    if not section.depends_on_batch and not any(registry.find(k, c.use).depends_on_batch(c) for k, c in found):
        return None
    rows = -(-train.batch // processes)
    images = min(recipe.runtime.micro_batch or rows, rows) * processes
    return images if images < train.batch else None
