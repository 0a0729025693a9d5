"""The results of a sweep as files: CSV for programs, Markdown for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gaekit.errors import GaekitError
from gaekit.runs.compare.reference import as_text, make_reference
from gaekit.runs.opened import open_run
from gaekit.store.files import write_text
from gaekit.sweeps.folder import CURVES
from gaekit.sweeps.labels import BASE, counted
from gaekit.sweeps.table import INTERVAL, Table, cells

FEWEST_OF_A_BAND = 2
"""Runs of a setting from which on it has reference curves."""
TABLE_CSV, RUNS_CSV, MARKDOWN = "table.csv", "runs.csv", "table.md"


def write_results(table: Table, folder: Path) -> list[Path]:
    """Write `table.csv` (a line a setting and metric), `runs.csv` (a line a run and metric) and `table.md`."""
    texts = {TABLE_CSV: _of_settings(table), RUNS_CSV: _of_runs(table), MARKDOWN: markdown(table)}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _of_settings(table: Table) -> str:
    rows = []
    for row in table.rows:
        for metric in table.metrics:
            if (mean := row.mean(metric)) is None:
                continue
            low, high = ("", "") if mean.half is None else (mean.value - mean.half, mean.value + mean.half)
            rows.append([row.label, *map(_plain, row.values.values()), metric, mean.n, mean.value, low, high])
    return _csv(["setting", *table.keys, "metric", "n", "mean", "low", "high"], rows)


def _of_runs(table: Table) -> str:
    rows = [
        [run.member.run, row.label, *map(_plain, row.values.values()), run.member.recipe.seed, metric, value]
        for row in table.rows
        for run in row.runs
        for metric, value in run.numbers.items()
    ]
    return _csv(["run", "setting", *table.keys, "seed", "metric", "value"], rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """A setting's value in a cell: a number or text as it is, all else as JSON."""
    is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def markdown(table: Table) -> str:
    """The table in Markdown, with what its numbers are."""
    head, rows = cells(table, table.metrics)
    lines = [f"# {table.name}", "", describe(table), "", _line(head), _line(["---"] * len(head)), *map(_line, rows), ""]
    return "\n".join([*lines, INTERVAL, ""])


def write_references(table: Table, folder: Path, out: Path) -> tuple[list[Path], list[str]]:
    """Write `curves/<setting>.json`, the reference curves of each setting of which two runs or more are finished.
    -> the files, and of settings that have none, why."""
    files, reasons = [], []
    for row in table.rows:
        file = folder / CURVES / f"{row.label}.json"
        file.unlink(missing_ok=True)
        if len(row.runs) < FEWEST_OF_A_BAND:
            continue
        try:
            reference = make_reference([open_run(out / run.member.run) for run in row.runs], _named(table, row.label))
        except GaekitError as error:
            reasons.append(f"no reference curves of {row.label}: {error}")
            continue
        write_text(file, as_text(reference))
        files.append(file)
    return files, reasons


def _named(table: Table, label: str) -> str:
    """What a setting is called by who compares a run with it: `quickstart`, or `quickstart, depth_2`."""
    return table.recipe if label == BASE else f"{table.recipe}, {label}"


def describe(table: Table) -> str:
    """One sentence about the sweep: what was tried, over which seeds, and how much of it is there."""
    seeds = [seed for seed in table.seeds if seed is not None]
    over = f", {counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))})" if seeds else ""
    keys = f" of {', '.join(table.keys)}" if table.keys else ""
    there = "" if table.finished == table.runs else f"; {table.finished} of {table.runs} runs are finished"
    return f"{counted(len(table.rows), 'setting')}{keys} over the recipe {table.recipe}{over}{there}."


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_data(table: Table) -> dict[str, Any]:
    """The table for programs: JSON values alone."""
    return {
        "sweep": table.name,
        "recipe": table.recipe,
        "keys": list(table.keys),
        "runs": table.runs,
        "finished": table.finished,
        "settings": [
            {
                "setting": row.label,
                "values": row.values,
                "runs": [run.member.run for run in row.runs],
                "of": row.of,
                "numbers": {name: _as_data(row.mean(name)) for name in table.metrics if row.mean(name)},
            }
            for row in table.rows
        ],
    }


def _as_data(mean: Any) -> dict[str, Any]:
    interval = None if mean.half is None else [mean.value - mean.half, mean.value + mean.half]
    return {"n": mean.n, "mean": mean.value, "interval": interval}
