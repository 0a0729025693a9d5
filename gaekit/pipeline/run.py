"""`gaekit run`: the loop over the stages."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gaekit.errors import GaekitError, Preempted, ReportedByRank0
from gaekit.parallel import World, join_world
from gaekit.pipeline.assets import prepare_assets
from gaekit.pipeline.plan import Plan, StagePlan, make_plan
from gaekit.pipeline.view import STORE, View
from gaekit.plugins import Registry
from gaekit.recipe import to_yaml
from gaekit.recipe.schema import Recipe
from gaekit.stages.data import Data
from gaekit.stages.job import Job
from gaekit.stages.machine import Machine, choose_device, open_machine
from gaekit.store.room import Room
from gaekit.train.progress import Reporter
from gaekit.train.signals import preemptible

PACKAGES = ("gaekit", "torch", "timm", "open_clip_torch", "xformers", "safetensors", "numpy", "pillow", "scikit-learn")


def run_recipe(
    recipe: Recipe,
    registry: Registry,
    *,
    out: Path = Path("runs"),
    until: str | None = None,
    redo: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> View:
    """Run every stage that is not cached, in order, and leave a view under `out`/<name>.

    `until` ends after that stage, `redo` runs that stage and all after it again, `offline` fetches nothing.
    Raises GaekitError and its kin.
    """
    with join_world(choose_device(recipe.runtime.device)) as world:
        reporter = (reporter or Reporter()) if world.is_rank0 else Reporter(Console(quiet=True))
        machine = open_machine(recipe.runtime, reporter, world)
        if world.size > 1:
            reporter.say(f"{world.size} processes, {recipe.runtime.strategy}, {machine.device.type}")
        store, data = out / STORE, Data(recipe, registry)
        ready = partial(prepare_assets, data=data, offline=offline, until=until, redo=redo)
        world.rank0_first(lambda: ready(recipe, registry, store, reporter.say))
        planned = partial(make_plan, recipe, registry, store, data=data, until=until, need_data=True)
        plan = _rank0_scans(planned, data, world)
        world.rank0_first(lambda: _check_stage_names(plan, until=until, redo=redo))
        world.on_rank0(lambda: _check_batches(plan, recipe, world))
        view, record = View(out / recipe.name), _new_record(recipe, plan, registry, machine)
        world.on_rank0(lambda: view.open(record, to_yaml(recipe)))
        redoing = False
        for position, stage in enumerate(plan.stages, 1):
            redoing = redoing or stage.name == redo
            title = f"[{position}/{len(plan.stages)}] {stage.name}"
            job = Job(stage.name, recipe, registry, machine, data, stage.room, stage.inputs, store)  # type: ignore[arg-type]
            _run_stage(stage, title, redoing, job, view, record)
        record["finished"] = _now()
        world.on_rank0(lambda: view.write(record))
        reporter.say(f"done: {view.path}")
        return view


def _rank0_scans(planned: Callable[[], Plan], data: Data, world: World) -> Plan:
    """The plan on every rank: rank 0 makes it first, and what it found of the data set it hands to the others."""
    made: list[Plan] = []
    world.on_rank0(lambda: made.append(planned()))
    data.share(world)
    return made[0] if made else planned()


def _run_stage(stage: StagePlan, title: str, redo: bool, job: Job, view: View, record: dict[str, Any]) -> None:
    entry, start, room, world = record["stages"][stage.name], time.monotonic(), stage.room, job.world
    if room is None:
        job.reporter.say(f"{title}: taken from {stage.artifact}")
        return
    with _held(room, world):
        done = world.on_rank0(lambda: _done(room, redo))
        if done is not None:
            entry.update(status="cached", record=done, caches=done["caches"])
            job.reporter.say(f"{title}: cached")
        else:
            job.reporter.say(f"{title}: {'resuming' if stage.status == 'resume' and not redo else 'running'}")
            room_facts = {"fingerprint": stage.fingerprint, **stage.facts}
            world.on_rank0(lambda: _begin(room, room_facts, view, record))
            result = {**_work(stage, job), "caches": job.caches}
            world.barrier()
            world.on_rank0(lambda: room.finish(result))
            entry.update(status="done", record=result, caches=job.caches)
            job.reporter.say(f"{title}: done in {time.monotonic() - start:.1f} s")
    world.on_rank0(lambda: view.write(record))


def _work(stage: StagePlan, job: Job) -> dict[str, Any]:
    """The stage's own work; each rank ends at once when a scheduler wants the machine back, one of them tells."""
    try:
        with preemptible(stage.name):
            return dict(stage.stage.run(job))
    except Preempted as stopped:
        if job.world.is_rank0:
            raise
        raise ReportedByRank0(str(stopped), stopped.exit_code) from stopped


@contextmanager
def _held(room: Room, world: World) -> Iterator[None]:
    """The room's lock, held by rank 0 for all."""
    with ExitStack() as stack:
        world.on_rank0(lambda: stack.enter_context(room.lock()))
        yield


def _begin(room: Room, facts: dict[str, Any], view: View, record: dict[str, Any]) -> None:
    room.describe(facts)
    view.write(record)


def _done(room: Room, redo: bool) -> dict[str, Any] | None:
    """The record of a finished stage; with `redo` the room is emptied instead."""
    done = room.done()
    if redo and done is not None:
        _empty(room.path)
        return None
    return done


def _empty(path: Path) -> None:
    """Remove a room's content, the lock excepted, which is held."""
    for item in path.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        elif item.name != "lock":
            item.unlink()


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


def _new_record(recipe: Recipe, plan: Plan, registry: Registry, machine: Machine) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": _now(),
        "finished": None,
        "device": torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else platform.machine(),
        "processes": machine.world.size,
        "python": platform.python_version(),
        "packages": package_versions(PACKAGES),
        "plugins": sorted({f"{p.distribution} {p.version}" for p in registry.plugins if not p.error}),
        "data": plan.data,
        "stages": {stage.name: _entry(stage, recipe) for stage in plan.stages},
    }


def _entry(stage: StagePlan, recipe: Recipe) -> dict[str, Any]:
    identity = stage.fingerprint if stage.step is None else f"{stage.fingerprint}@{stage.step}"
    if stage.room is None:
        return {
            "status": "from",
            "identity": identity,
            "artifact": str(stage.artifact.resolve()),
            "room": None,
            "subfolder": "",
        }
    room = f"{STORE}/{stage.name}/{stage.room.path.name}"
    artifact = os.path.join("..", room, stage.room.subfolder, stage.artifact.name)
    status = "cached" if stage.status == "cached" else "pending"
    external = {name: str(stage.inputs[name].resolve()) for name in stage.facts.get("external", ())}
    entry = {
        "status": status,
        "identity": identity,
        "artifact": artifact,
        "room": room,
        "subfolder": stage.room.subfolder,
    }
    return entry | ({"external": external} if external else {})


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
