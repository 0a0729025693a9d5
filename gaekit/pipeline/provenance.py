"""What a result was made by and no fingerprint counts: the code of third-party components, versions of packages.

A component's author raises its `revision` when its numbers change. Where that was forgotten, a run that takes the
cached result, or goes on with it, says so in a line.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from gaekit.api import Component
from gaekit.errors import GaekitError
from gaekit.pipeline.plan import Plan, StagePlan
from gaekit.plugins import UNKNOWN, Registry, nested
from gaekit.recipe.schema import Recipe
from gaekit.store.files import read_json, sha256_file, sha256_json
from gaekit.store.room import FACTS

PACKAGES = ("gaekit", "torch", "timm", "open_clip_torch", "xformers", "safetensors", "numpy", "pillow", "scikit-learn")
OWN = "gaekit"
"""This distribution: of its components the revisions are tested, and its version changes with every release."""


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def providers(recipe: Recipe, plan: Plan, registry: Registry) -> dict[str, dict[str, str]]:
    """What run.json records of every component of a recipe, and of the artifacts that it takes from elsewhere:
    {"kind:name": {distribution, version}}. Without one that belongs to no distribution."""
    found = {}
    for kind, name in _used(recipe, plan):
        plugin = registry.origin[kind, name]
        if plugin.distribution != UNKNOWN:
            found[f"{kind}:{name}"] = {"distribution": plugin.distribution, "version": plugin.version}
    return found


def attributions(recipe: Recipe, plan: Plan, registry: Registry) -> dict[str, str]:
    """What run.json records of whom to name, of the same components: {"kind:name": text}."""
    said = {f"{kind}:{name}": registry.find(kind, name).attribution for kind, name in _used(recipe, plan)}
    return {key: text for key, text in said.items() if text is not None}


def _used(recipe: Recipe, plan: Plan) -> list[tuple[str, str]]:
    """(kind, name) of every component of a recipe, and of the artifacts that it takes from elsewhere."""
    used = {(kind, config.use) for kind, config in nested(recipe)}
    for stage in plan.stages:
        used |= {(kind, name) for kind, name, _ in (key.split(":") for key in stage.facts.get("components", ()))}
    return sorted(used)


def made_by(stage: StagePlan, registry: Registry) -> dict[str, Any]:
    """What `stage.json` records beside the facts: {"code": {"kind:name": sha256}, "packages": {name: version}}."""
    code = {}
    for key in stage.facts["components"]:
        kind, name, _ = key.split(":")
        if registry.origin[kind, name].distribution != OWN:
            code[f"{kind}:{name}"] = code_hash(registry.find(kind, name))
    return {"code": code, "packages": package_versions(PACKAGES)}


def code_hash(cls: type[Component]) -> str:
    """The sha256 over the files of a component's module and of the modules of its package that this one imports."""
    return sha256_json({name: sha256_file(path) for name, path in _sources(cls).items()})


def _sources(cls: type[Component]) -> dict[str, Path]:
    """The files of these modules by their names; those that are imported within functions are not seen."""
    top = cls.__module__.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = {parent.__module__ for parent in cls.__mro__}
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if name.partition(".")[0] != top or name in found or module is None or not module.__file__:
            continue
        found[name] = Path(module.__file__)
        for value in vars(module).values():
            if isinstance(value, ModuleType):
                waiting.add(value.__name__)
            elif isinstance(value, type | FunctionType):
                waiting.add(value.__module__)
    return found


def _recorded(facts: Path, key: str) -> dict[str, str]:
    """What a room's `stage.json` says of its making; nothing where it does not."""
    try:
        found = read_json(facts).get(key)
    except (GaekitError, OSError, ValueError, AttributeError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def what_changed(plan: Plan, registry: Registry) -> Iterator[str]:
    """A line for each component that changed, and for packages of other versions, since results were made that are
    cached or begun."""
    components, packages = defaultdict(list), defaultdict(list)
    for stage in plan.stages:
        if stage.room is None or stage.status not in ("cached", "resume"):
            continue
        now, facts = made_by(stage, registry), stage.room.path / FACTS
        for name, digest in _recorded(facts, "code").items():
            if now["code"].get(name) not in (None, digest):
                components[name].append(stage.name)
        for name, old in _recorded(facts, "packages").items():
            if name in PACKAGES and name != OWN and now["packages"].get(name) != old:
                packages[f"{name} {old} (here {now['packages'].get(name, 'absent')})"].append(stage.name)
    for name, stages in components.items():
        kind, use = name.split(":")
        yield (
            f"  {kind} '{use}' changed since the results of {', '.join(stages)} were made, and its revision did not; "
            f"raise it, or make them anew with --redo {stages[0]}"
        )
    if packages:
        stages = list(dict.fromkeys(stage for found in packages.values() for stage in found))
        yield f"  the results of {', '.join(stages)} were made with {', '.join(packages)}"
