"""`gaekit run`: the loop over the stages."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from gaekit.errors import GaekitError, Preempted, ReportedByRank0, RunFailed
from gaekit.parallel import World, join_world
from gaekit.pipeline.again import FAILED, Again, place_again, remember
from gaekit.pipeline.assets import prepare_assets
from gaekit.pipeline.generations import RoomChooser, earlier_record
from gaekit.pipeline.plan import Plan, StagePlan, line_of_shorter, make_plan, start_of_shorter, status_of
from gaekit.pipeline.provenance import PACKAGES, attributions, made_by, package_versions, providers, what_changed
from gaekit.pipeline.shown_curves import show_curves
from gaekit.pipeline.tryout import begin_afresh
from gaekit.pipeline.view import STORE, View
from gaekit.plugins import Registry
from gaekit.recipe import to_yaml
from gaekit.recipe.schema import Recipe
from gaekit.stages.attempt import recorded
from gaekit.stages.claim import claim
from gaekit.stages.data import Data
from gaekit.stages.job import Job
from gaekit.stages.machine import Machine, choose_device, open_machine
from gaekit.store.artifact import resolve
from gaekit.store.checkpoints import CheckpointFolder
from gaekit.store.curves import CURVES, cut_curves
from gaekit.train.progress import Reporter
from gaekit.train.signals import preemptible
from gaekit.waiting import showing


def run_recipe(
    recipe: Recipe,
    registry: Registry,
    *,
    out: Path = Path("runs"),
    until: str | None = None,
    redo: str | None = None,
    fresh: str | None = None,
    offline: bool = False,
    wait: bool = True,
    few: int | None = None,
    reporter: Reporter | None = None,
    command: Sequence[str] | None = None,
) -> View:
    """Run every stage that is not cached, in order, and leave a view under `out`/<name>.

    `until` ends after that stage. `redo` runs that stage and all that is made from it again, in new rooms; `fresh` does
    too, and discards its checkpoints and what was not finished, unless another run needs them. `offline` fetches
    nothing. What another process is making is waited for, or refused without `wait`. With `few`, each split of the data
    has at most so many images, and what an earlier run of the name left is removed. `command` is what run.json gives as
    having run it, this process's own by default. Raises GaekitError and its kin.
    """
    if redo and fresh:
        raise GaekitError("--redo and --fresh: give one of the two")
    with join_world(choose_device(recipe.runtime.device)) as world, ExitStack() as stack:
        reporter = (reporter or Reporter()) if world.is_rank0 else Reporter(Console(quiet=True))
        stack.enter_context(showing(reporter.slow_bar))
        machine = open_machine(recipe.runtime, reporter, world)
        machine.count_flops()
        if world.size > 1:
            reporter.say(f"{world.size} processes, {recipe.runtime.strategy}, {machine.device.type}")
        again = Again(redo or fresh or "", discard=bool(fresh)) if redo or fresh else None
        store, data, view = out / STORE, Data(recipe, registry, few), View(out / recipe.name)
        world.on_rank0(lambda: begin_afresh(view) if few is not None else None)
        needs = partial(prepare_assets, recipe, registry, store, reporter.say, data=data, processes=world.size)
        world.rank0_first(lambda: needs(offline=offline, until=until, redo=redo or fresh))
        planned = partial(make_plan, recipe, registry, store, data=data, processes=world.size)
        plan = _rank0_scans(partial(planned, until=until, need_data=True), data, world, reporter)
        world.rank0_first(lambda: _check_stage_names(plan, until=until, redo=redo, fresh=fresh))
        earlier = world.on_rank0(lambda: earlier_record(view))
        rooms = world.on_rank0(lambda: _choose_rooms(plan, again, view, earlier, reporter.say))
        plan.place(RoomChooser(store, fixed=rooms))
        world.on_rank0(lambda: _check_batches(plan, recipe, world))
        for line in world.on_rank0(lambda: list(what_changed(plan, registry))):
            reporter.say(line)
        record = _new_record(recipe, plan, registry, machine, command or own_command())
        record["again"] = again and asdict(again)
        remember(record, earlier)
        world.on_rank0(lambda: view.open(record, to_yaml(recipe)))
        for position, stage in enumerate(plan.stages, 1):
            title = f"[{position}/{len(plan.stages)}] {stage.name}"
            if stage.room is None:
                reporter.say(f"{title}: taken from {stage.artifact}")
                continue
            job = Job(stage.name, recipe, registry, machine, data, stage.room, stage.inputs, store, wait=wait)
            _run_stage(stage, title, job, view, record)
        world.on_rank0(lambda: _close(record, view))
        reporter.say(f"done: {view.path}")
        return view


def _close(record: dict[str, Any], view: View) -> None:
    """Write down that a run is finished, and needs no more what it has made anew."""
    for entry in record["stages"].values():
        entry.pop("replaces", None)
    record["finished"] = _now()
    view.write(record)


def _rank0_scans(planned: Callable[[], Plan], data: Data, world: World, reporter: Reporter) -> Plan:
    """The plan on every rank: rank 0 makes it first, and what it found of the data set it hands to the others."""
    made: list[Plan] = []
    with reporter.waiting("looking at the data and the store"):
        world.on_rank0(lambda: made.append(planned()))
    data.share(world)
    return made[0] if made else planned()


def _run_stage(stage: StagePlan, title: str, job: Job, view: View, record: dict[str, Any]) -> None:
    entry, start, room, world = record["stages"][stage.name], time.monotonic(), job.room, job.world
    with claim(room, title, world, job.reporter, wait=job.wait) as done:
        if done is not None:
            entry.update(status="cached", record=done, caches=done["caches"])
            job.reporter.say(f"{title}: cached")
        else:
            job.on_cache = partial(_note_caches, entry, job, view, record)
            job.on_trackers = lambda: show_curves(view, stage.name, room.trackers)
            world.on_rank0(lambda: _begin(stage, title, job, view, record))
            try:
                with recorded(job, stage.step):
                    result = {**_work(stage, job), "caches": job.caches}
                    world.barrier()
            except RunFailed:
                entry["status"] = FAILED
                if world.is_rank0:
                    view.write(record)
                raise
            world.on_rank0(lambda: room.finish(result))
            entry.update(status="done", record=result, caches=job.caches)
            job.reporter.say(f"{title}: done in {time.monotonic() - start:.1f} s")
    world.on_rank0(lambda: view.write(record))
    world.on_rank0(lambda: show_curves(view, stage.name, room.trackers))


def _begin(stage: StagePlan, title: str, job: Job, view: View, record: dict[str, Any]) -> None:
    """Say how a stage begins, now that its room is held, and write down what it is."""
    _set_apart(stage, job)
    job.reporter.say(f"{title}: {'resuming' if status_of(job.room, stage.step) == 'resume' else 'running'}")
    job.room.describe({"fingerprint": stage.fingerprint, **stage.facts, **made_by(stage, job.registry)})
    view.write(record)


def _set_apart(stage: StagePlan, job: Job) -> None:
    """Give a training that is shorter than one in its room checkpoints of its own, from which it goes on."""
    room, start = job.room, start_of_shorter(job.room, stage.step)
    if stage.step is None or start is None:
        return
    job.reporter.say(f"  {stage.name}: {line_of_shorter(room, stage.step, start)}")
    cut_curves(room.curves, start, into=room.out / CURVES)
    CheckpointFolder(room.checkpoints).branch(room.out / "checkpoints", start)


def _note_caches(entry: dict[str, Any], job: Job, view: View, record: dict[str, Any]) -> None:
    entry["caches"] = job.caches
    view.write(record)


def _choose_rooms(
    plan: Plan, again: Again | None, view: View, earlier: dict[str, Any], say: Callable[[str], None]
) -> dict[str, str]:
    """The room of each stage by its name, for all ranks; new ones from a stage on that is begun again."""
    if again is not None:
        place_again(plan, again, view, earlier, say)
    return {stage.name: stage.room.path.name for stage in plan.stages if stage.room is not None}


def _work(stage: StagePlan, job: Job) -> dict[str, Any]:
    """The stage's own work; each rank ends at once when a scheduler wants the machine back, one of them tells."""
    try:
        with preemptible(stage.name):
            return dict(stage.stage.run(job))
    except Preempted as stopped:
        if job.world.is_rank0:
            raise
        raise ReportedByRank0(str(stopped), stopped.exit_code) from stopped


def _check_batches(plan: Plan, recipe: Recipe, world: World) -> None:
    """Every batch that will be trained with divides over the processes. Raises GaekitError before anything is run."""
    going = {stage.name for stage in plan.stages if stage.status != "cached"}
    for name, train in recipe.trainings():
        if name in going:
            try:
                world.rows(train.batch)
            except GaekitError as error:
                raise GaekitError(f"{name}.train.batch: {error}") from error


def _check_stage_names(plan: Plan, **named: str | None) -> None:
    known = [stage.name for stage in plan.stages]
    for option, name in named.items():
        if name is not None and name not in known:
            raise GaekitError(f"--{option} {name}: this recipe has no such stage; it has: {', '.join(known)}")


def own_command() -> list[str]:
    """The command line of this process."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _new_record(
    recipe: Recipe, plan: Plan, registry: Registry, machine: Machine, command: Sequence[str]
) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "command": list(command),
        "started": _now(),
        "finished": None,
        "device": machine.name,
        "processes": machine.world.size,
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "plugins": sorted({f"{p.distribution} {p.version}" for p in registry.plugins if not p.error}),
        "components": providers(recipe, plan, registry),
        "attributions": attributions(recipe, plan, registry),
        "data": plan.data,
        "stages": {stage.name: _entry(stage, recipe) for stage in plan.stages},
    }


def _entry(stage: StagePlan, recipe: Recipe) -> dict[str, Any]:
    if stage.room is None:
        return {
            "status": "from",
            "identity": stage.identity,
            "artifact": str(stage.artifact.resolve()),
            "room": None,
            "subfolder": "",
        }
    room = f"{STORE}/{stage.name}/{stage.room.path.name}"
    artifact = os.path.join("..", room, stage.room.subfolder, stage.artifact.name)
    status = "cached" if stage.status == "cached" else "pending"
    external = {name: str(stage.inputs[name].resolve()) for name in stage.facts.get("external", ())}
    entry: dict[str, Any] = {
        "status": status,
        "identity": stage.identity,
        "artifact": artifact,
        "room": room,
        "subfolder": stage.room.subfolder,
    }
    if external:
        entry["external"] = external
    if (train := stage.stage.training(recipe)) is not None and train.init is not None:
        entry["init"] = str(resolve(Path(train.init), stage.name, stage.stage.artifact).resolve())
    return entry


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
