"""What `gaekit plan` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from gaekit.errors import DataAbsent, GaekitError
from gaekit.parallel import World
from gaekit.pipeline.plan import Plan, StagePlan, line_of_shorter, make_plan, start_of_shorter
from gaekit.pipeline.view import STORE
from gaekit.plugins import Registry
from gaekit.recipe.probe import DiffusionProbe, HeldOutLoss
from gaekit.recipe.schema import Autoencoder, Diffusion, Recipe
from gaekit.sizing.budget import disk_of_stages, memory_of_stages
from gaekit.sizing.describe import data_facts, sizes_of, trained_networks
from gaekit.stages import stage_named
from gaekit.stages.data import Data
from gaekit.stages.network import Network
from gaekit.store.files import free_space, human_duration, human_size
from gaekit.terminal import Terminal, to_json
from gaekit.train.progress import Reporter
from gaekit.waiting import progress

if TYPE_CHECKING:
    from gaekit.sizing.measure import Measured

NOT_COUNTED = "activations (`--measure` tells), and the weights of teachers and perceptual networks"
MADE_UP = (
    "Measured with images and latents made up, on one process with the rows of the first: neither decoding nor what "
    "the processes tell each other is in it. An adversary takes part from the first step. Previews are not drawn, and "
    "no probe is made."
)


@dataclass(frozen=True)
class Known:
    """What is known of the data set: nothing where it is absent, as `absent` says."""

    classes: int | None = None
    images: int | None = None
    held_out: int | None = None
    absent: str = ""


@dataclass(frozen=True)
class Planned:
    """A recipe planned for `nproc` processes: what its stages would do, its data and its networks."""

    recipe: Recipe
    registry: Registry
    out: Path
    nproc: int
    plan: Plan
    data: Known
    networks: list[Network]

    @classmethod
    def of(cls, recipe: Recipe, registry: Registry, out: Path, until: str | None, nproc: int) -> Planned:
        """Plan a recipe against what is in `out`. Raises GaekitError where its networks cannot be built."""
        data_set = Data(recipe, registry)
        with Reporter().waiting("looking at the data and the store"):
            plan = make_plan(recipe, registry, out / STORE, data=data_set, until=until, processes=nproc)
            data = _known(data_set)
        return cls(recipe, registry, out, nproc, plan, data, _networks(recipe, registry, data))

    def measure(self) -> Iterator[Measured]:
        """Run some steps of each training."""
        from gaekit.sizing.measure import measure_stages

        recipe, data = self.recipe, self.data
        found = measure_stages(recipe, self.registry, classes=data.classes, images=data.images, nproc=self.nproc)
        return progress(found, "measuring", len(list(recipe.trainings())), "trainings")


def _known(data: Data) -> Known:
    try:
        return Known(*data_facts(data))
    except DataAbsent as error:
        return Known(absent=str(error))


def show_plan(planned: Planned, *, facts: bool, measure: bool) -> None:
    """Print a plan; with `measure`, run a few steps of each training."""
    console = Terminal()
    if not console.is_terminal:
        console.width = 160
    recipe, plan, data = planned.recipe, planned.plan, planned.data
    console.print(f"{recipe.name}: {recipe.image.size} px, latents {_latent_shape(recipe)}")
    if data.absent:
        console.print(f"data: absent, digest unknown ({data.absent})")
    else:
        counts = f"{data.images} training and {data.held_out} held-out images, {data.classes or 'no'} classes"
        console.print(f"data: {recipe.dataset.use}, {counts}")
    console.print(_stage_table(recipe, plan))
    for stage in plan.stages:
        if stage.room and stage.step is not None and (start := start_of_shorter(stage.room, stage.step)) is not None:
            console.print(f"{stage.name}: {line_of_shorter(stage.room, stage.step, start)}")
    for line in _lines_of_probes(recipe):
        console.print(line)
    console.print(_size_table(planned.networks))
    _show_memory(console, recipe, planned.networks, planned.nproc)
    _show_disk(console, planned)
    if measure:
        _show_measured(console, planned)
    if facts:
        for stage in plan.stages:
            console.print(f"\n{stage.name} {stage.fingerprint}")
            console.print(to_json(stage.facts))


def plan_as_data(planned: Planned, *, facts: bool, measure: bool) -> dict[str, Any]:
    """A plan for programs: sizes in bytes, times in seconds; what is unknown without the data is null."""
    recipe, plan, data = planned.recipe, planned.plan, planned.data
    memories = memory_of_stages(recipe, planned.networks, planned.nproc)
    disks = disk_of_stages(recipe, planned.registry, planned.networks, data.images, plan)
    return {
        "recipe": recipe.name,
        "processes": planned.nproc,
        "image_size": recipe.image.size,
        "latents": {"channels": recipe.latent_dim, "grid": recipe.image.grid},
        "data": {"dataset": recipe.dataset.use, "train": data.images, "validation": data.held_out,
                 "classes": data.classes, "digest": plan.data, "absent": data.absent or None},
        "stages": [_stage_as_data(stage, recipe, facts) for stage in plan.stages],
        "networks": [asdict(size) for size in sizes_of(planned.networks)],
        "memory": [{**asdict(memory), "device": memory.device} for memory in memories],
        "disk": [asdict(disk) for disk in disks],
        "disk_free": free_space(planned.out),
        "measured": [asdict(found) for found in planned.measure()] if measure else None,
    }  # fmt: skip


def _stage_as_data(stage: StagePlan, recipe: Recipe, facts: bool) -> dict[str, Any]:
    train = stage.stage.training(recipe)
    shown = {
        "name": stage.name,
        "status": stage.status,
        "fingerprint": stage.fingerprint,
        "steps": train.steps if train else None,
        "batch": train.batch if train else None,
        "where": str(stage.room.path if stage.room else stage.artifact),
    }
    return {**shown, "facts": stage.facts} if facts else shown


def _latent_shape(recipe: Recipe) -> str:
    return f"{recipe.image.grid} x {recipe.image.grid} x {recipe.latent_dim}"


def _table(*columns: str) -> Table:
    """Columns that keep 80 characters where they can; the last takes what room is left, and wraps."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for number, column in enumerate(columns, 1):
        table.add_column(column, no_wrap=number < len(columns), overflow="fold")
    return table


def _stage_table(recipe: Recipe, plan: Plan) -> Table:
    table = _table("stage", "status", "steps", "batch", "where", "decided by")
    for stage in plan.stages:
        train = stage.stage.training(recipe)
        steps = (str(train.steps), str(train.batch)) if train else ("", "")
        decided = ", ".join([*stage.facts.get("parts", ["its content"]), *stage.facts.get("needs", [])])
        where = f"{STORE}/{stage.name}/{stage.room.path.name}" if stage.room else str(stage.artifact)
        table.add_row(stage.name, stage.status, *steps, where, decided)
    return table


def _lines_of_probes(recipe: Recipe) -> Iterator[str]:
    """What each training is looked at by, and how often."""
    for stage, section in recipe.sections():
        if not isinstance(section, Autoencoder | Diffusion) or section.probe is None:
            continue
        probe, parts = section.probe, []
        if probe.loss is not None:
            times = f" at {probe.loss.times} times" if isinstance(probe.loss, HeldOutLoss) else ""
            parts.append(f"the loss of {probe.loss.images} held-out images{times}")
        if probe.metrics:
            judged = "samples" if isinstance(probe, DiffusionProbe) else "held-out images"
            parts.append(f"{', '.join(metric.use for metric in probe.metrics)} of {probe.count} {judged}")
        count = -(-section.train.steps // probe.every)
        yield f"{stage}: {count} probes, every {probe.every} steps: {'; '.join(parts)}"


def _networks(recipe: Recipe, registry: Registry, data: Known) -> list[Network]:
    try:
        return trained_networks(recipe, registry, data.classes)
    except GaekitError as error:
        raise GaekitError(f"the networks of this recipe cannot be built: {error}") from error


def _size_table(networks: list[Network]) -> Table:
    table = _table("network", "parameters", "of them trained", "checkpoint")
    for size in sizes_of(networks):
        table.add_row(size.name, _millions(size.parameters), _millions(size.trained), human_size(size.checkpoint))
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}M" if count < 1e8 else f"{count / 1e6:.1f}M"


def _show_memory(console: Terminal, recipe: Recipe, networks: list[Network], nproc: int) -> None:
    """Memory of each process, and how its share of a batch comes about."""
    memories = memory_of_stages(recipe, networks, nproc)
    if not memories:
        return
    processes = f"{nproc} processes, {recipe.runtime.strategy}" if nproc > 1 else "1 process"
    console.print(f"\nmemory of each of {processes}; not counted: {NOT_COUNTED}")
    table = _table("stage", "images", "weights", "gradients", "optimizer", "averages", "previews", "in all")
    beside = _table("stage", "in the CPU's memory")
    for memory in memories:
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.averages, memory.previews, memory.device)
        table.add_row(memory.stage, _share_of_batch(recipe, memory.stage, nproc), *map(human_size, parts))
        told = [f"averages {human_size(memory.offloaded)}"] if memory.offloaded else []
        told.append(f"{'rank 0: ' if nproc > 1 else ''}copy for checkpoints {human_size(memory.copied)}")
        beside.add_row(memory.stage, ", ".join(told))
    console.print(table)
    console.print(beside)


def _share_of_batch(recipe: Recipe, stage: str, nproc: int) -> str:
    """The rows of a step that one process takes, in how many passes. Raises GaekitError where they do not divide."""
    train = stage_named(stage).training(recipe)
    assert train is not None
    first, last = World(size=nproc).rows(train.batch)
    rows = last - first
    micro = min(recipe.runtime.micro_batch or rows, rows)
    if rows % micro:
        raise GaekitError(f"runtime.micro_batch: {micro} does not divide the {rows} images of each process ({stage})")
    return str(rows) if micro == rows else f"{rows // micro} x {micro}"


def _show_disk(console: Terminal, planned: Planned) -> None:
    recipe, registry, out = planned.recipe, planned.registry, planned.out
    console.print("\ndisk, at most, for what is not cached; pictures and scalars not counted")
    table, total, partial = _table("stage", "what", "size"), 0, ""
    for disk in disk_of_stages(recipe, registry, planned.networks, planned.data.images, planned.plan):
        table.add_row(disk.stage, disk.what, "unknown without the data" if disk.size is None else human_size(disk.size))
        total += disk.size or 0
        partial = partial if disk.size is not None else " and what is unknown"
    console.print(table)
    console.print(f"in all {human_size(total)}{partial}; free in {out}: {human_size(free_space(out))}")


def _show_measured(console: Terminal, planned: Planned) -> None:
    recipe = planned.recipe
    console.print(f"\n{MADE_UP}")
    table = _table("stage", "a step", "images/s", "steps", "all of them", "peak memory", "")
    hours = 0.0
    for found in planned.measure():
        train = stage_named(found.stage).training(recipe)
        assert train is not None
        if found.seconds is None:
            table.add_row(found.stage, "", "", str(train.steps), "", "", found.note)
            continue
        hours += found.seconds * train.steps / 3600
        peak = "unknown" if found.peak is None else human_size(found.peak)
        table.add_row(
            found.stage, f"{found.seconds:.3g} s", f"{train.batch / found.seconds:.3g}", str(train.steps),
            human_duration(found.seconds * train.steps), f"{peak} ({found.peak_of})", found.note,
        )  # fmt: skip
    console.print(table)
    console.print(f"the trainings in all: {human_duration(hours * 3600)}")
