"""What a run would do: for each stage its fingerprint, and whether it is cached, resumed or run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gaekit.errors import DataAbsent, GaekitError
from gaekit.pipeline.components import component_facts, images_a_pass, in_artifact, in_parts
from gaekit.pipeline.from_artifacts import check_cache, check_imported, find_external, find_init
from gaekit.pipeline.generations import RoomChooser, is_first, rooms_of_run
from gaekit.pipeline.view import View
from gaekit.plugins import Registry
from gaekit.recipe import canonical
from gaekit.recipe.schema import From, Recipe, StageSection, Train
from gaekit.stages import STAGES, autoencoder, latents
from gaekit.stages.data import Data
from gaekit.stages.stage import Stage
from gaekit.store.artifact import resolve
from gaekit.store.checkpoints import CheckpointFolder
from gaekit.store.files import sha256_file, sha256_json
from gaekit.store.room import Room
from gaekit.train.optim import has_horizon

Status = Literal["cached", "resume", "run", "from", "absent"]


@dataclass
class StagePlan:
    """One stage of a plan. `facts` are what the fingerprint is the hash of; `room` is None for a stage taken from
    elsewhere. `external` are the artifacts that its section names beside its inputs, None where one is absent."""

    stage: Stage
    status: Status
    fingerprint: str
    facts: dict[str, Any]
    artifact: Path
    room: Room | None = None
    inputs: dict[str, Path] = field(default_factory=dict)
    step: int | None = None
    external: dict[str, Path | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def identity(self) -> str:
        """What decides the result: the fingerprint, and the number of steps where that is no part of it."""
        return self.fingerprint if self.step is None else f"{self.fingerprint}@{self.step}"


@dataclass
class Plan:
    """All stages of a recipe, in order. `data` is the data set's digest, or None where it is absent."""

    stages: list[StagePlan]
    data: str | None
    data_note: str = ""
    processes: int = 1

    def __getitem__(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.name == name)

    def place(self, chooser: RoomChooser) -> None:
        """Give every stage that has a room the one that is chosen now, and its inputs where they are then."""
        for stage in self.stages:
            if stage.room is not None:
                _place(stage, self, chooser)


def make_plan(
    recipe: Recipe,
    registry: Registry,
    store: Path,
    *,
    data: Data | None = None,
    until: str | None = None,
    need_data: bool = False,
    processes: int = 1,
) -> Plan:
    """Plan a recipe against the rooms in `store`, for so many processes; `data` is the run's, where there is one.

    Without the data the digest is unknown and nothing of it is cached;
    a `from` that leads nowhere is absent. With `need_data`, as for a run, these raise DataAbsent and ArtifactError.
    A run of the recipe's name beside the store keeps its rooms. Raises ArtifactError for a `from` that does not fit the
    recipe."""
    chooser = RoomChooser(store, rooms_of_run(View(store.parent / recipe.name)))
    stages = list(needed_stages(recipe, until))
    digest, note = None, ""
    if any(stage.reads_data and not stage.is_imported(recipe) for stage in stages):
        try:
            digest = (data or Data(recipe, registry)).digest
        except DataAbsent as error:
            if need_data:
                raise
            note = str(error)
    plan = Plan([], digest, note, processes)
    for stage in stages:
        plan.stages.append(_plan_stage(stage, recipe, registry, chooser, plan, need_data))
    return plan


def needed_stages(recipe: Recipe, until: str | None = None) -> Iterator[Stage]:
    """The stages that run or are read, in order: those that no later one reads, and what these need.

    Raises GaekitError if `until` is none of the recipe's.
    """
    present = [stage for stage in STAGES if stage.section(recipe) is not None]
    if until is not None:
        names = [stage.name for stage in present]
        if until not in names:
            raise GaekitError(f"--until {until}: this recipe has no such stage; it has: {', '.join(names)}")
        present = present[: names.index(until) + 1]
    wanted: set[str] = set()
    for stage in reversed(present):
        read_later = any(stage.name in other.reads for other in present)
        if stage.name in wanted or not read_later:
            wanted.add(stage.name)
            if not stage.is_imported(recipe):
                wanted.update(stage.reads)
    yield from (stage for stage in present if stage.name in wanted)


def _plan_stage(
    stage: Stage, recipe: Recipe, registry: Registry, chooser: RoomChooser, plan: Plan, need_data: bool
) -> StagePlan:
    section = stage.section(recipe)
    if isinstance(section, From):
        return _plan_imported(stage, section, recipe, registry, plan, need_data)
    before = {p.name: p for p in plan.stages if p.name in stage.reads}
    facts, step = _facts(stage, recipe, registry, plan.data, before)
    if (init := find_init(stage, recipe, needed=need_data)) is not None:
        facts["init"] = init
    if (images := images_a_pass(stage, recipe, registry, plan.processes)) is not None:
        facts["images_a_pass"] = images
    external = find_external(stage, recipe, needed=need_data)
    if external:
        facts["external"] = {name: artifact and sha256_file(artifact) for name, artifact in external.items()}
        for name, artifact in external.items():
            if artifact is not None:
                used = in_artifact(stage.external(recipe)[name].stage, artifact, registry)
                facts["components"] |= component_facts(used, registry)
    planned = StagePlan(stage, "run", sha256_json(facts), facts, Path(), step=step, external=external)
    _place(planned, plan, chooser)
    return planned


def _place(stage: StagePlan, plan: Plan, chooser: RoomChooser) -> None:
    """Set a stage's room, and what follows from it: its artifact, its inputs, its status."""
    before = [p for p in plan.stages if p.name in stage.stage.reads and p is not stage]
    made_from = {p.name: p.room.path.name for p in before if p.room is not None and not is_first(p.room, p.fingerprint)}
    subfolder = "" if stage.step is None else f"step-{stage.step}"
    stage.room = chooser.choose(stage.name, stage.fingerprint, stage.identity, subfolder, made_from)
    stage.artifact = stage.room.out / stage.stage.artifact
    stage.inputs = {p.name: p.artifact for p in before}
    stage.inputs |= {name: artifact for name, artifact in stage.external.items() if artifact is not None}
    stage.status = "run" if stage.stage.reads_data and plan.data is None else status_of(stage.room, stage.step)
    stage.status = "absent" if None in stage.external.values() else stage.status


def _plan_imported(
    stage: Stage, section: From, recipe: Recipe, registry: Registry, plan: Plan, needed: bool
) -> StagePlan:
    path = Path(section.path)
    if not needed and not path.expanduser().exists():
        return StagePlan(stage, "absent", "unknown", {"from": str(path), "sha256": None}, path)
    artifact = resolve(path, stage.name, stage.artifact)
    check_imported(stage, artifact, recipe)
    if stage is latents.STAGE:
        check_cache(artifact.parent if artifact.is_file() else artifact, _autoencoder_of(plan), plan.data)
    decided = {
        "sha256": sha256_file(artifact if artifact.is_file() else artifact / "manifest.json"),
        "components": component_facts(in_artifact(stage, artifact, registry), registry),
    }
    return StagePlan(stage, "from", sha256_json(decided), {"from": str(artifact), **decided}, artifact)


def _autoencoder_of(plan: Plan) -> str | None:
    """The sha256 of the recipe's autoencoder, "" before it is trained, None where the plan has none or it is absent."""
    for stage in plan.stages:
        if stage.stage is autoencoder.STAGE and stage.status != "absent":
            return sha256_file(stage.artifact) if stage.status in ("from", "cached") else ""
    return None


def start_of_shorter(room: Room, step: int | None) -> int | None:
    """The step at which a training of `step` steps begins beside a longer one in its room: that of the newest intact
    checkpoint before its end, 0 without one. None where no longer one has saved itself there, or it is begun."""
    if step is None or room.is_apart or room.done() is not None:
        return None
    saved = CheckpointFolder(room.checkpoints)
    if not any(longer > step for longer in saved.steps()):
        return None
    return max((s for s in saved.steps() if s <= step and not saved.damage(s, hashes=False)), default=0)


def line_of_shorter(room: Room, step: int, start: int) -> str:
    """What a plan and a run say of a training that begins beside a longer one."""
    saved = CheckpointFolder(room.checkpoints).steps()
    left = f"no checkpoint at or before step {step} is left, starts at 0" if not start else f"starts at step {start}"
    return f"{left}; the longer training in {room.path}, saved up to step {saved[-1]}, stays as it is"


def status_of(room: Room, step: int | None) -> Status:
    """Whether a room is complete, begun or yet to be begun; `step` is the training's last where it can be prolonged."""
    if room.done() is not None:
        return "cached"
    saved = CheckpointFolder(room.checkpoints).steps()
    begun = any(s <= step for s in saved) if step is not None else bool(saved)
    return "resume" if begun or any(room.out.glob("*/*.safetensors")) else "run"


def _facts(
    stage: Stage, recipe: Recipe, registry: Registry, data: str | None, before: Mapping[str, StagePlan]
) -> tuple[dict[str, Any], int | None]:
    """What decides a stage's result, and its number of steps where that does not."""
    parts: dict[str, Any] = stage.parts(recipe)
    section = stage.section(recipe)
    written = {name: canonical(value) for name, value in parts.items()}
    step = None
    train = stage.training(recipe)
    if section is not None and train is not None and not _depends_on_end(section, train):
        step = train.steps
        del written[stage.name]["train"]["steps"]
    if train is not None and train.init is not None:  # its content decides, not where it lies
        del written[stage.name]["train"]["init"]
    facts = {
        "stage": stage.name,
        "revision": stage.revision,
        "parts": written,
        "components": component_facts(in_parts(parts), registry),
        "needs": {name: p.identity for name, p in before.items()},
    }
    if stage.reads_data:
        facts["data"] = data
    return facts, step


def _depends_on_end(section: StageSection, train: Train) -> bool:
    return has_horizon(train) or any(isinstance(value, float) and value != 0 for value in section.moments)
