"""What the stages of several runs cost, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gaekit.runs.bill import StageBill, bill
from gaekit.runs.opened import OpenRun
from gaekit.runs.states import Stage


@dataclass(frozen=True)
class Cost:
    """What a stage cost a run: device-seconds of all attempts and FLOP, None where they are not known, and `why` not.
    Of a run that wrote down no attempts, the seconds of its training's steps stand in for them (`only_steps`). `steps`:
    of its training. `is_shared`: its room is the first run's, and was paid for once."""

    device_seconds: float | None
    flop: int | None = None
    steps: int | None = None
    is_shared: bool = False
    only_steps: bool = False
    why: str = ""


@dataclass(frozen=True)
class CostRow:
    """A stage of all runs; None where a run has no such stage."""

    stage: str
    costs: tuple[Cost | None, ...]


def costs_of(runs: Sequence[OpenRun]) -> list[CostRow]:
    """Every stage that any of the runs has, in order."""
    rooms = [_rooms(run) for run in runs]
    bills = [{stage.stage: stage for stage in bill(run.view).stages} for run in runs]
    stages = [run.stages for run in runs]
    processes = [int(run.record.get("processes", 1)) for run in runs]
    rows = []
    for stage in dict.fromkeys(name for one in bills for name in one):
        costs = []
        for number, known in enumerate(bills):
            shared = number > 0 and rooms[number].get(stage) is not None and rooms[number][stage] == rooms[0].get(stage)
            billed = known.get(stage)
            own = stages[number].get(stage)
            costs.append(None if billed is None else _cost(billed, own, shared, processes[number]))
        rows.append(CostRow(stage, tuple(costs)))
    return rows


def total(rows: Sequence[CostRow], run: int) -> tuple[float, list[str]]:
    """(device-seconds of the stages of a run of which they are known, the stages of which they are not)."""
    costs = [(row.stage, row.costs[run]) for row in rows]
    known = sum(cost.device_seconds for _, cost in costs if cost is not None and cost.device_seconds is not None)
    return known, [stage for stage, cost in costs if cost is not None and cost.device_seconds is None]


def _cost(billed: StageBill, stage: Stage | None, shared: bool, processes: int) -> Cost:
    steps = stage.record.get("steps") if stage is not None else None
    found = Cost(None, billed.flop, steps if isinstance(steps, int) else None, shared, why=billed.why)
    if billed.known:
        return replace(found, device_seconds=billed.device_seconds)
    if stage is not None and stage.seconds is not None:
        return replace(found, device_seconds=stage.seconds * processes, only_steps=True)
    return found


def _rooms(run: OpenRun) -> dict[str, Path | None]:
    return {
        name: None if s.room is None else s.room.path.resolve() / s.room.subfolder for name, s in run.stages.items()
    }
