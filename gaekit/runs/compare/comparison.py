"""Everything that is compared, read from the runs' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gaekit.errors import GaekitError
from gaekit.runs.compare.cost import CostRow, costs_of, total
from gaekit.runs.compare.numbers import Row, numbers_of, rows_of
from gaekit.runs.compare.settings import ABSENT, Setting, differing
from gaekit.runs.opened import OpenRun, open_run
from gaekit.store.curves import Curves, read_curves

MOST = 8
"""As many runs as there are colours for curves, and room for on a page. More are a sweep."""
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Comparison:
    """Two or more runs beside each other; the others are held against the first. `curves`: those of each run, by
    stage."""

    runs: tuple[OpenRun, ...]
    settings: tuple[Setting, ...]
    runtime: tuple[Setting, ...]
    numbers: tuple[Row, ...]
    costs: tuple[CostRow, ...]
    curves: tuple[Mapping[str, Curves], ...]
    seeds: tuple[Any, ...]

    @property
    def letters(self) -> str:
        """A letter for each run, by which it is named."""
        return LETTERS[: len(self.runs)]

    @property
    def shared(self) -> list[str]:
        """The stages that all runs took from one room."""
        return [row.stage for row in self.costs if all(cost is not None and cost.is_shared for cost in row.costs[1:])]

    @property
    def trainings(self) -> list[str]:
        """The stages of which any run has curves, but for those that all share."""
        return [s for s in dict.fromkeys(s for one in self.curves for s in one) if s not in self.shared]

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves, as JSON values."""
        return {
            "runs": [
                {"letter": letter, "path": str(run.path), "state": run.state}
                for letter, run in zip(self.letters, self.runs, strict=True)
            ],
            "settings": [_setting(setting) for setting in self.settings],
            "runtime": [_setting(setting) for setting in self.runtime],
            "numbers": [_number(row) for row in self.numbers],
            "costs": [
                {"stage": row.stage, "runs": [None if cost is None else asdict(cost) for cost in row.costs]}
                for row in self.costs
            ],
            "device_hours": [total(self.costs, number)[0] / 3600 for number in range(len(self.runs))],
        }


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Read runs and hold the others against the first. What a run lacks is left out.

    Raises GaekitError for fewer than two runs or more than eight, ArtifactError for a folder that is no run and for
    what is damaged in one.
    """
    if not 2 <= len(paths) <= MOST:
        raise GaekitError(
            f"compare takes 2 to {MOST} runs, and was given {len(paths)}; `gaekit sweep` tells more apart"
        )
    runs = tuple(open_run(path) for path in paths)
    recipes = [run.settings for run in runs]
    settings = differing(recipes)
    return Comparison(
        runs,
        tuple(s for s in settings if not s.is_runtime),
        tuple(s for s in settings if s.is_runtime),
        tuple(rows_of([numbers_of(run.metrics, run.path) for run in runs])),
        tuple(costs_of(runs)),
        tuple(_curves(run) for run in runs),
        tuple(recipe.get("seed") for recipe in recipes),
    )


def _curves(run: OpenRun) -> dict[str, Curves]:
    found = {
        name: read_curves(stage.room.curves, stage.record.get("steps"))
        for name, stage in run.stages.items()
        if stage.room is not None
    }
    return {name: curves for name, curves in found.items() if curves.scalars}


def _setting(setting: Setting) -> dict[str, Any]:
    return {"key": setting.key, "values": [{} if v is ABSENT else {"value": v} for v in setting.values]}


def _number(row: Row) -> dict[str, Any]:
    numbers = [
        None if n is None else {"value": n.value, "interval": n.interval, "method": n.method or None}
        for n in row.numbers
    ]
    return {"name": row.name, "runs": numbers, "changes": [asdict(change) for change in row.changes]}
