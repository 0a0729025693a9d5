"""What a sweep found: by setting, the numbers of its runs, their mean and its interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaekit.intervals import decimals
from gaekit.pipeline.view import View
from gaekit.plugins import Registry
from gaekit.recipe import dump
from gaekit.store.record import METRICS, read_metrics
from gaekit.sweeps.members import Member, Sweep, value_of
from gaekit.sweeps.student import LEVEL, Mean, mean_of
from gaekit.sweeps.there import has_results

INTERVAL = f"Mean ± half the {100 * LEVEL:g} % interval of Student's t over the runs of a setting; one run has none."


@dataclass(frozen=True)
class RunNumbers:
    """The numbers of one finished run, by metric."""

    member: Member
    numbers: dict[str, float]


@dataclass(frozen=True)
class Row:
    """A setting: the values of the swept keys, its finished runs, and how many it has in all."""

    label: str
    values: dict[str, Any]
    runs: tuple[RunNumbers, ...]
    of: int

    def mean(self, metric: str) -> Mean | None:
        """The mean of a metric over its runs; None where none has it."""
        values = [run.numbers[metric] for run in self.runs if metric in run.numbers]
        return mean_of(values) if values else None


@dataclass(frozen=True)
class Table:
    """The settings of a sweep with what is known of them. `metrics` are all names of numbers, `keys` the swept keys."""

    name: str
    recipe: str
    keys: tuple[str, ...]
    seeds: tuple[int | None, ...]
    rows: tuple[Row, ...]
    metrics: tuple[str, ...] = field(default=())

    @property
    def finished(self) -> int:
        """Finished runs."""
        return sum(len(row.runs) for row in self.rows)

    @property
    def runs(self) -> int:
        """All runs."""
        return sum(row.of for row in self.rows)


def collect(sweep: Sweep, out: Path, registry: Registry) -> Table:
    """The table of what is finished in `out`. A run whose recipe is not the sweep's any more counts as unfinished."""
    rows = tuple(_row(sweep.of(setting), sweep, out, registry) for setting in sweep.definition.settings)
    metrics = dict.fromkeys(name for row in rows for run in row.runs for name in run.numbers)
    definition = sweep.definition
    return Table(sweep.name, definition.file.recipe, definition.keys, definition.seeds, rows, tuple(metrics))


def _row(members: list[Member], sweep: Sweep, out: Path, registry: Registry) -> Row:
    recipe = dump(members[0].recipe)
    values = {key: value_of(recipe, key) for key in sweep.definition.keys}
    finished = [member for member in members if has_results(View(out / member.run), member.recipe, registry)]
    runs = tuple(RunNumbers(member, _numbers(View(out / member.run))) for member in finished)
    return Row(members[0].setting.label, values, runs, len(members))


def _numbers(view: View) -> dict[str, float]:
    """The numbers of a run's metrics.json; {} where its recipe evaluates nothing."""
    file = view.path / METRICS
    return {name: float(entry["value"]) for name, entry in read_metrics(file).items()} if file.exists() else {}


def in_words(mean: Mean | None, runs: int) -> str:
    """A mean as people read it, with as many digits as its interval gives sense to; `n` where not all runs have it."""
    if mean is None:
        return "-"
    text = _with_half(mean.value, mean.half) if mean.half else f"{mean.value:.4g}"
    text = f"{text} ± 0" if mean.half == 0 else text
    return text if mean.n == runs else f"{text} (n {mean.n})"


def _with_half(value: float, half: float) -> str:
    digits = decimals(half, most=9)
    return f"{value:.{digits}f} ± {half:.{digits}f}" if digits <= 8 else f"{value:.4g} ± {half:.2g}"


def cells(table: Table, metrics: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of these metrics as text: the setting, n, and a column a metric."""
    chosen = list(metrics)
    rows = [
        [row.label, _count(row), *(in_words(row.mean(metric), len(row.runs)) for metric in chosen)]
        for row in table.rows
    ]
    return ["setting", "n", *chosen], rows


def _count(row: Row) -> str:
    return str(row.of) if len(row.runs) == row.of else f"{len(row.runs)} of {row.of}"


def blocks(table: Table, width: int) -> list[tuple[list[str], list[list[str]]]]:
    """The table as tables one below the other, each with as many metrics as fit into so many columns of a terminal; one
    at least."""
    found, chosen = [], list[str]()
    for metric in table.metrics:
        if chosen and _width(*cells(table, [*chosen, metric])) > width:
            found.append(cells(table, chosen))
            chosen = []
        chosen.append(metric)
    return [*found, cells(table, chosen)]


def _width(head: list[str], rows: list[list[str]]) -> int:
    columns = zip(head, *rows, strict=True)
    return sum(max(map(len, column)) + 2 for column in columns) - 2
