"""What it cost until a number first reached a value, by the trainings' curves and what their attempts took."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gaekit.errors import GaekitError
from gaekit.pipeline.view import View
from gaekit.runs.bill import Bill, StageBill
from gaekit.store.attempts import Attempt
from gaekit.store.curves import Curves, read_curves
from gaekit.store.room import Room

MOST_NAMED = 20


@dataclass(frozen=True)
class Reached:
    """When a curve first reached a value: `step`, `epochs` and `device_hours` are None where it never did, and `best`
    is then as near as it came, at `best_step`.

    `epochs`: images by those that there are to train on; None where their number is not known. `device_hours` are of
    this training and its failed attempts until then, `device_hours_before` of the stages before it, as far as known.
    """

    metric: str
    stage: str
    target: float
    higher: bool
    best: float
    best_step: int
    step: int | None = None
    value: float | None = None
    epochs: float | None = None
    device_hours: float | None = None
    device_hours_before: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def parse_until(text: str) -> tuple[str, float]:
    """(metric, value) of `fid=2`. Raises GaekitError."""
    name, sign, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not sign or not name.strip() or not math.isfinite(number):
        raise GaekitError(f"--until {text}: give a metric and a value, such as fid=2 or probe/loss=0.8")
    return name.strip(), number


def until(view: View, bill: Bill, text: str, is_higher: Callable[[str], bool]) -> Reached:
    """When and at what cost the run first reached a value, as `fid=2`: of the curve of that name, with its stage before
    it or without, or of the one whose name ends so. `is_higher` tells of a name whether more of it is better.

    Raises GaekitError where no curve is called so, or several are.
    """
    metric, target = parse_until(text)
    curves = dict(_curves(view))
    named = [(stage, name) for stage, own in curves.items() for name in own.scalars]
    found = [(stage, name) for stage, name in named if f"{stage}/{name}".endswith(f"/{metric}")]
    exact = [(stage, name) for stage, name in named if metric in (name, f"{stage}/{name}")]
    chosen = exact or found
    if len(chosen) != 1:
        raise GaekitError(_choice(view, metric, chosen, curves))
    (stage, name), higher = chosen[0], is_higher(chosen[0][1])
    points = [(step, value) for step, value in curves[stage].scalars[name] if math.isfinite(value)]
    if not points:
        raise GaekitError(f"{view.path}: {name} of {stage} has no finite value yet")
    best_step, best = (max if higher else min)(points, key=lambda point: point[1])
    reached = Reached(name, stage, target, higher, best, best_step)
    for step, value in points:
        if value >= target if higher else value <= target:
            return _at(reached, bill, curves[stage], step, value)
    return reached


def seconds_until(stage: StageBill, curves: Curves, step: int) -> float:
    """Device-seconds of a training's attempts until one first took a step: earlier ones whole, of that one what came
    before. In it, time is shared out as the training's own seconds are, what saving and probing took included."""
    total = 0.0
    for attempt in stage.attempts:
        if attempt.first_step is not None and attempt.last_step is not None and attempt.last_step >= step:
            return total + attempt.processes * _seconds_in(attempt, curves, step)
        total += attempt.device_seconds
    return total


def _at(reached: Reached, bill: Bill, curves: Curves, step: int, value: float) -> Reached:
    place = next(number for number, stage in enumerate(bill.stages) if stage.stage == reached.stage)
    stage, before = bill.stages[place], bill.stages[:place]
    known = next((a for a in stage.attempts if a.epoch and a.batch), None)
    return Reached(
        reached.metric, reached.stage, reached.target, reached.higher, reached.best, reached.best_step, step, value,
        epochs=step * known.batch / known.epoch if known and known.batch and known.epoch else None,
        device_hours=seconds_until(stage, curves, step) / 3600 if stage.known else None,
        device_hours_before=sum(own.device_seconds for own in before) / 3600,
    )  # fmt: skip


def _seconds_in(attempt: Attempt, curves: Curves, step: int) -> float:
    first, last, ready = attempt.first_step or 0, attempt.last_step or step, attempt.ready_seconds or 0.0
    begun, now, end = (_training_seconds(curves, at) for at in (first, max(step, first), last))
    share = (now - begun) / (end - begun) if end > begun else 1.0
    return ready + share * max(0.0, attempt.seconds - ready)


def _training_seconds(curves: Curves, step: int) -> float:
    """The training's own seconds at a step, between those that were logged in proportion to the steps."""
    before = (0, 0.0)
    for at, seconds in curves.seconds:
        if at >= step:
            share = (step - before[0]) / (at - before[0]) if at > before[0] else 1.0
            return before[1] + share * (seconds - before[1])
        before = (at, seconds)
    return before[1] * step / before[0] if before[0] else float(step)


def _curves(view: View) -> Iterator[tuple[str, Curves]]:
    for stage, entry in view.record["stages"].items():
        curves = read_curves(Room(view.path / stage, entry["subfolder"]).curves)
        if curves.scalars:
            yield stage, curves


def _choice(view: View, metric: str, found: list[tuple[str, str]], curves: dict[str, Curves]) -> str:
    if found:
        named = ", ".join(f"{stage}/{name}" for stage, name in found[:MOST_NAMED])
        return f"--until {metric}: several curves of {view.path} are called so: {named}; give one as it stands here"
    names = sorted({name for own in curves.values() for name in own.scalars}, key=lambda name: (name.count("/"), name))
    probes = [name for name in names if name.startswith("probe/")] or names
    known = f"its curves: {', '.join(probes[:MOST_NAMED])}" if probes else "it has no curves"
    return (
        f"--until {metric}: no curve of {view.path} is called so; {known}. A metric has one where the recipe's probe "
        "computes it (autoencoder.probe, diffusion.probe)"
    )
