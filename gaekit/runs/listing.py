"""What is in a folder of runs: how each stands, how far it is, its numbers and its size. Neither torch nor plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError, GaekitError
from gaekit.pipeline.rooms import size_of
from gaekit.pipeline.view import RECIPE, View, views
from gaekit.runs.opened import OpenRun, open_run
from gaekit.runs.states import Stage
from gaekit.store.attempts import read_attempts
from gaekit.store.checkpoints import CheckpointFolder

ORDER = ("running", "failed", "stopped", "damaged", "done")
FINISHED = ("done", "cached", "from")


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `step` of `of`, steps of a training or images of samples, and the seconds that are `left` of
    it at its speed so far; None where it is not known."""

    step: int | None = None
    of: int | None = None
    left: float | None = None


@dataclass(frozen=True)
class Listed:
    """A run as `gaekit runs` shows it.

    state: running, failed, stopped, damaged or done. stage: that which is under way, or in which the run was left, with
    its `progress`. numbers: the values of metrics.json. size: bytes of its rooms and files; rooms that runs share count
    for each. problem: why it failed or cannot be read.
    """

    name: str
    path: str
    state: str
    started: str | None = None
    finished: str | None = None
    stage: str | None = None
    progress: Progress = Progress()
    numbers: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    problem: str | None = None

    def as_data(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def list_runs(out: Path) -> list[Listed]:
    """The runs in a folder: those that are under way first, then the newest. A damaged one is listed as such."""
    sizes: dict[Path, int] = {}
    found = [_listed(view, sizes) for view in views(out)]
    newest = sorted(found, key=lambda run: run.finished or run.started or "", reverse=True)
    return sorted(newest, key=lambda run: ORDER.index(run.state))


def main_numbers(numbers: Mapping[str, float], most: int) -> Iterator[tuple[str, float]]:
    """Those that tell most of a run: of its samples, of its reconstructions, then others."""
    order = ("samples/", "reconstruction/", "samples_unguided/", "")
    ranked = sorted(numbers, key=lambda name: next(i for i, prefix in enumerate(order) if name.startswith(prefix)))
    yield from ((name, numbers[name]) for name in ranked[:most])


def _listed(view: View, sizes: dict[Path, int]) -> Listed:
    name, path = view.path.name, str(view.path)
    try:
        run = open_run(view.path)
        record, stages, state = run.record, run.stages, run.state
        stage = None if state == "done" else _under_way(stages)
        return Listed(
            name,
            path,
            state,
            record.get("started"),
            record.get("finished"),
            stage.name if stage else None,
            Progress() if stage is None else _progress(stage, run),
            _numbers(run),
            _size(view, sizes),
            stage.problem if stage else None,
        )
    except GaekitError as error:
        return Listed(name, path, "damaged", problem=str(error))


def _numbers(run: OpenRun) -> dict[str, float]:
    values = {name: entry["value"] for name, entry in run.metrics.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _under_way(stages: Mapping[str, Stage]) -> Stage | None:
    """The stage that is worked at, has failed or was left; else the first that is not done."""
    left = [stage for stage in stages.values() if stage.state not in FINISHED]
    begun = [stage for stage in left if stage.state != "pending"]
    return next(iter([*begun, *left]), None)


def _progress(stage: Stage, run: OpenRun) -> Progress:
    """Of a training and of samples; other stages take too short to tell it."""
    section = run.settings.get(stage.name) or {}
    if stage.room is None:
        return Progress()
    try:
        if stage.name == "sample":
            return _of_samples(stage, section)
        return _of_training(stage, section["train"]) if section.get("train") else Progress()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{run.path / RECIPE}: damaged: its section {stage.name} is none ({error})") from error


def _of_training(stage: Stage, train: Mapping[str, Any]) -> Progress:
    """By what its attempt writes every few seconds, and by its checkpoints."""
    assert stage.room is not None
    steps = int(train["steps"])
    saved = [step for step in CheckpointFolder(stage.room.checkpoints).steps() if step <= steps]
    attempt = next(iter(read_attempts(stage.room.attempts)[-1:]), None)
    step = max((*saved, min(steps, attempt.last_step or 0) if attempt else 0))
    left = None
    if stage.state == "running" and attempt and attempt.steps and attempt.ready_seconds is not None:
        left = (steps - step) * (attempt.seconds - attempt.ready_seconds) / attempt.steps
    return Progress(step, steps, left)


def _of_samples(stage: Stage, section: Mapping[str, Any]) -> Progress:
    """By the chunks that are there, and the speed of its attempt."""
    assert stage.room is not None
    series = 2 if section.get("also_unguided") else 1
    count, batch = int(section["count"]), int(section["batch"])
    made = sum(min(batch, count - first) for first in _first_images(stage.room.out / "chunks"))
    attempt = next(iter(read_attempts(stage.room.attempts)[-1:]), None)
    left = None
    if stage.state == "running" and attempt and attempt.images:
        left = (series * count - made) * attempt.seconds / attempt.images
    return Progress(made, series * count, left)


def _first_images(chunks: Path) -> Iterator[int]:
    """The index of the first image of each chunk, by its name: samples-00000100.safetensors."""
    numbers = (path.stem.rpartition("-")[2] for path in chunks.glob("*.safetensors"))
    return (int(number) for number in numbers if number.isdecimal())


def _size(view: View, sizes: dict[Path, int]) -> int:
    rooms = {view.path.parent / room for room in view.rooms()}
    for room in rooms - set(sizes):
        sizes[room] = size_of(room)
    return sum(sizes[room] for room in rooms) + size_of(view.path)
