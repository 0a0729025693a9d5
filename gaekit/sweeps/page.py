"""The results of a sweep as a page: what was tried, a plot a metric, the table, and its runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from gaekit import __version__
from gaekit.runs.page import Band, Cell, Interval, Series, curves_svg, details, intervals_svg, render
from gaekit.runs.page import table as page_table
from gaekit.store.files import write_text
from gaekit.sweeps.labels import counted, short_names
from gaekit.sweeps.table import INTERVAL, Row, Table, cells, in_words
from gaekit.sweeps.writing import describe

PAGE, REPORT = "report.html", "report.html"
AS_CURVE = 3
"""Values of a swept number from which on a metric is drawn as a curve over it, instead of a row a setting."""


def write_page(table: Table, folder: Path, out: Path) -> Path:
    """Write `report.html` into the sweep's folder. Raises GaekitError where the extra `report` is not there."""
    sections = [
        ("plots", "Numbers", Markup('<div class="plots">{}</div>').format(Markup("").join(_plots(table)))),
        ("table", "Table", _table(table)),
        ("settings", "Settings", _settings(table)),
        ("runs", "Runs", _runs(table, folder, out)),
    ]
    text = render(
        "sweep.html",
        name=table.name,
        about=describe(table),
        interval=INTERVAL,
        sections=sections,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


def _plots(table: Table) -> Iterator[Markup]:
    key = _numeric_key(table)
    for metric in table.metrics:
        yield _over_settings(table, metric) if key is None else _over_key(table, metric, key)


def _numeric_key(table: Table) -> str | None:
    """The swept number of the most values, where it has several; None where settings are better drawn one by one."""
    counts = {}
    for key in table.keys:
        values = [row.values[key] for row in table.rows]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            counts[key] = len(set(values))
    best = max(counts, key=lambda key: counts[key], default=None)
    return best if best is not None and counts[best] >= AS_CURVE else None


def _over_settings(table: Table, metric: str) -> Markup:
    rows = []
    for row in table.rows:
        if (mean := row.mean(metric)) is None:
            continue
        low, high = (None, None) if mean.half is None else (mean.value - mean.half, mean.value + mean.half)
        rows.append(Interval(row.label, mean.value, low, high, text=in_words(mean, len(row.runs))))
    return intervals_svg(rows, title=metric)


def _over_key(table: Table, metric: str, key: str) -> Markup:
    """Curves over one key, one for each combination of the others."""
    curves: dict[str, list[Row]] = {}
    names = short_names(table.keys)
    for row in table.rows:
        others = [f"{names[other]} {_text(value)}" for other, value in row.values.items() if other != key]
        if row.mean(metric) is not None:
            curves.setdefault(", ".join(others), []).append(row)
    series = [_curve(label, rows, metric, key) for label, rows in curves.items()]
    return curves_svg(series, title=metric, x_label=names[key], log_y=False)


def _curve(label: str, rows: list[Row], metric: str, key: str) -> Series:
    rows = sorted(rows, key=lambda row: row.values[key])
    means = [mean for row in rows if (mean := row.mean(metric)) is not None]
    band = Band([m.value - (m.half or 0.0) for m in means], [m.value + (m.half or 0.0) for m in means])
    has_band = any(mean.half is not None for mean in means)
    return Series(label, [row.values[key] for row in rows], [m.value for m in means], band if has_band else None)


def _table(table: Table) -> Markup:
    head, rows = cells(table, table.metrics)
    numbers: list[list[str | Cell]] = [[row[0], *(Cell(text, number=True) for text in row[1:])] for row in rows]
    return page_table(head, numbers, caption="A row a setting, a column a metric.")


def _settings(table: Table) -> Markup:
    rows = [[row.label, *(_text(value) for value in row.values.values())] for row in table.rows]
    return page_table(["setting", *table.keys], rows, caption="What each setting sets in the recipe.")


def _runs(table: Table, folder: Path, out: Path) -> Markup:
    rows: list[list[str | Cell]] = []
    for row in table.rows:
        for run in row.runs:
            page = out / run.member.run / REPORT
            name = run.member.run
            link = Markup('<a href="{}">{}</a>').format(quote(os.path.relpath(page, folder)), name)
            rows.append([link if page.exists() else name, row.label, Cell(str(run.member.recipe.seed), number=True)])
    linked = page_table(["run", "setting", "seed"], rows, caption="Finished runs; a link leads to the page of a run.")
    return details(counted(len(rows), "finished run"), linked)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
