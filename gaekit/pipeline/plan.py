"""What a run would do: for each stage its fingerprint, and whether it is cached, resumed or run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel

from gaekit.api import ComponentConfig, Dataset
from gaekit.errors import DataAbsent, GaekitError
from gaekit.pipeline.taken import check_cache, check_taken, find_init, find_taken
from gaekit.plugins import Registry, build, nested, slots
from gaekit.recipe import canonical
from gaekit.recipe.schema import Adversary, From, Recipe, Train
from gaekit.stages import STAGES, autoencoder, latents
from gaekit.store.artifact import resolve
from gaekit.store.files import sha256_file, sha256_json
from gaekit.store.room import Room
from gaekit.train.checkpoint import Checkpoints
from gaekit.train.optim import has_horizon

Status = Literal["cached", "resume", "run", "from", "absent"]
FINGERPRINT_SHOWN = 12


@dataclass
class StagePlan:
    """One stage of a plan. `facts` are what the fingerprint is the hash of; `room` is None for a stage taken from
    elsewhere."""

    stage: ModuleType
    status: Status
    fingerprint: str
    facts: dict[str, Any]
    artifact: Path
    room: Room | None = None
    inputs: dict[str, Path] = field(default_factory=dict)
    step: int | None = None

    @property
    def name(self) -> str:
        """The stage's name."""
        return str(self.stage.NAME)


@dataclass
class Plan:
    """All stages of a recipe, in order. `data` is the data set's digest, or None where it is absent."""

    stages: list[StagePlan]
    data: str | None
    data_note: str = ""

    def __getitem__(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.name == name)


def make_plan(
    recipe: Recipe, registry: Registry, store: Path, *, until: str | None = None, need_data: bool = False
) -> Plan:
    """Plan a recipe against the rooms in `store`. Without the data the digest is unknown and nothing of it is cached;
    a `from` that leads nowhere is absent. With `need_data`, as for a run, these raise DataAbsent and ArtifactError.
    Raises ArtifactError for a `from` that does not fit the recipe."""
    stages = list(needed_stages(recipe, until))
    data, note = None, ""
    if any(stage.READS_DATA and not isinstance(section_of(recipe, stage), From) for stage in stages):
        try:
            data = build(Dataset, recipe.dataset, registry).digest()
        except DataAbsent as error:
            if need_data:
                raise
            note = str(error)
    plan = Plan([], data, note)
    for stage in stages:
        plan.stages.append(_plan_stage(stage, recipe, registry, store, plan, need_data))
    return plan


def section_of(recipe: Recipe, stage: ModuleType) -> Any:
    """The recipe's section of a stage, None where it is absent."""
    return getattr(recipe, stage.NAME)


def needed_stages(recipe: Recipe, until: str | None = None) -> Iterator[ModuleType]:
    """The stages that run or are read, in order: those that no later one reads, and what these need.

    Raises GaekitError if `until` is none of the recipe's.
    """
    present = [stage for stage in STAGES if section_of(recipe, stage) is not None]
    if until is not None:
        names = [stage.NAME for stage in present]
        if until not in names:
            raise GaekitError(f"--until {until}: this recipe has no such stage; it has: {', '.join(names)}")
        present = present[: names.index(until) + 1]
    wanted: set[str] = set()
    for stage in reversed(present):
        read_later = any(stage.NAME in _reads(other) for other in present)
        if stage.NAME in wanted or not read_later:
            wanted.add(stage.NAME)
            if not isinstance(section_of(recipe, stage), From):
                wanted.update(_reads(stage))
    yield from (stage for stage in present if stage.NAME in wanted)


def _reads(stage: ModuleType) -> tuple[str, ...]:
    return (*stage.NEEDS, *getattr(stage, "OPTIONAL", ()))


def _plan_stage(
    stage: ModuleType, recipe: Recipe, registry: Registry, store: Path, plan: Plan, need_data: bool
) -> StagePlan:
    section = section_of(recipe, stage)
    if isinstance(section, From):
        return _plan_taken(stage, section, recipe, plan, need_data)
    before = {p.name: p for p in plan.stages if p.name in _reads(stage)}
    facts, step = _facts(stage, recipe, registry, plan.data, before)
    if (init := find_init(stage, recipe, needed=need_data)) is not None:
        facts["init"] = init
    taken = find_taken(stage, recipe, needed=need_data)
    if taken:
        facts["taken"] = {name: artifact and sha256_file(artifact) for name, artifact in taken.items()}
    fingerprint = sha256_json(facts)
    room = Room(store / stage.NAME / fingerprint[:FINGERPRINT_SHOWN], "" if step is None else f"step-{step}")
    inputs = {name: p.artifact for name, p in before.items()}
    inputs |= {name: artifact for name, artifact in taken.items() if artifact is not None}
    status: Status = "run" if stage.READS_DATA and plan.data is None else _status(room, step)
    status = "absent" if None in taken.values() else status
    return StagePlan(stage, status, fingerprint, facts, room.out / stage.ARTIFACT, room, inputs, step)


def _plan_taken(stage: ModuleType, section: From, recipe: Recipe, plan: Plan, needed: bool) -> StagePlan:
    path = Path(section.path)
    if not needed and not path.expanduser().exists():
        return StagePlan(stage, "absent", "unknown", {"from": str(path), "sha256": None}, path)
    artifact = resolve(path, stage.NAME, stage.ARTIFACT)
    check_taken(stage.NAME, artifact, recipe)
    if stage is latents:
        check_cache(artifact.parent if artifact.is_file() else artifact, _autoencoder_of(plan), plan.data)
    content = sha256_file(artifact if artifact.is_file() else artifact / "manifest.json")
    return StagePlan(stage, "from", content, {"from": str(artifact), "sha256": content}, artifact)


def _autoencoder_of(plan: Plan) -> str | None:
    """The sha256 of the recipe's autoencoder, "" before it is trained, None where the plan has none or it is absent."""
    for stage in plan.stages:
        if stage.name == autoencoder.NAME and stage.status != "absent":
            return sha256_file(stage.artifact) if stage.status in ("from", "cached") else ""
    return None


def _status(room: Room, step: int | None) -> Status:
    if room.done() is not None:
        return "cached"
    saved = Checkpoints(room.checkpoints).steps()
    begun = any(s <= step for s in saved) if step is not None else bool(saved)
    return "resume" if begun or any(room.out.glob("*/*.safetensors")) else "run"


def _facts(
    stage: ModuleType, recipe: Recipe, registry: Registry, data: str | None, before: Mapping[str, StagePlan]
) -> tuple[dict[str, Any], int | None]:
    """What decides a stage's result, and its number of steps where that does not."""
    parts: dict[str, Any] = stage.parts(recipe)
    section = parts.get(stage.NAME)
    written = {name: canonical(value) for name, value in parts.items()}
    step = None
    train = getattr(section, "train", None)
    if isinstance(train, Train) and not _depends_on_end(train, getattr(section, "adversary", None)):
        step = train.steps
        del written[stage.NAME]["train"]["steps"]
    if isinstance(train, Train) and train.init is not None:  # its content decides, not where it lies
        del written[stage.NAME]["train"]["init"]
    facts = {
        "stage": stage.NAME,
        "revision": stage.REVISION,
        "parts": written,
        "components": dict(_components(parts, registry)),
        "needs": {name: _identity(p) for name, p in before.items()},
    }
    if stage.READS_DATA:
        facts["data"] = data
    return facts, step


def _depends_on_end(train: Train, adversary: Adversary | None) -> bool:
    moments = (adversary.start, adversary.warmup) if adversary else ()
    return has_horizon(train) or any(isinstance(value, float) and value != 0 for value in moments)


def _identity(plan: StagePlan) -> str:
    return plan.fingerprint if plan.step is None else f"{plan.fingerprint}@{plan.step}"


def _components(parts: Mapping[str, Any], registry: Registry) -> Iterator[tuple[str, Any]]:
    """(kind:name, {revision, external}) of every component in the parts."""
    kinds = slots(Recipe)
    for name, value in parts.items():
        found = [(kinds[name], value)] if isinstance(value, ComponentConfig) else []
        for kind, config in (*found, *(nested(value) if isinstance(value, BaseModel) else ())):
            cls = registry.find(kind, config.use)
            facts: dict[str, Any] = {"revision": cls.revision}
            if (external := cls.external(config)) is not None:
                facts["external"] = external
            yield f"{kind}:{config.use}:{sha256_json(canonical(config))[:8]}", facts
