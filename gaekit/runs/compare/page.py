"""A comparison as a page: numbers with their intervals, curves over one another, samples from the same noise, costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from gaekit import __version__
from gaekit.runs.compare.comparison import Comparison
from gaekit.runs.compare.cost import total
from gaekit.runs.compare.grids import grids
from gaekit.runs.compare.numbers import Change, Number, Row
from gaekit.runs.compare.settings import Setting
from gaekit.runs.compare.text import NOTE, cost_text, decimals_of
from gaekit.runs.page import (
    Cell,
    Interval,
    Point,
    Series,
    breakable,
    curves_svg,
    details,
    intervals_svg,
    render,
    require_extra,
    scatter_svg,
    table,
)
from gaekit.store.files import human_duration

MOST_PLOTS = 40
FEWEST_POINTS = 3
"""Runs from which on quality over cost is a plot: two points say no more than the table."""


def make_page(comparison: Comparison) -> str:
    """One HTML file. Raises GaekitError where the extra `report` is absent."""
    require_extra()
    sections = [
        ("recipe", "What differs", _settings(comparison)),
        ("numbers", "Numbers", _numbers(comparison)),
        ("samples", "Samples", grids(comparison)),
        ("curves", "Curves", _curves(comparison)),
        ("cost", "Cost", _costs(comparison)),
    ]
    names = [run.path.resolve().name for run in comparison.runs]
    return render(
        "compare.html",
        title=" and ".join(names) if len(names) == 2 else f"{len(names)} runs",
        runs=[
            (letter, name, str(run.path), run.state)
            for letter, name, run in zip(comparison.letters, names, comparison.runs, strict=True)
        ],
        sections=[section for section in sections if section[2]],
        version=__version__,
    )


def _settings(comparison: Comparison) -> Markup:
    head = ("setting", *comparison.letters)
    if comparison.settings:
        found = table(head, map(_setting, comparison.settings), caption="Settings that decide results")
    else:
        found = Markup("<p>No setting that decides a result differs.</p>")
    if not comparison.runtime:
        return found
    other = table(head, map(_setting, comparison.runtime), caption="Settings of the runtime, which change no result")
    return found + details(f"{len(comparison.runtime)} settings of the runtime differ too", other)


def _setting(setting: Setting) -> list[Markup | str]:
    return [_code(setting.key), *map(_code, setting.texts)]


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(text)


def _numbers(comparison: Comparison) -> Markup:
    rows = comparison.numbers
    if not rows:
        return Markup()
    shown = [row for row in rows if not row.is_same and any(n is not None for n in row.numbers)]
    plots = Markup().join(_plot(comparison.letters, row) for row in shown)
    same = ", ".join(f"{row.name} {_text(row.numbers[0], decimals_of(row))}" for row in rows if row.is_same)
    told = Markup("<p>The same in all runs: {}.</p>").format(same) if same else Markup()
    cells = [cells for row in rows for cells in _cells(comparison.letters, row)]
    head = ("number", "run", "value", "95 % interval", f"from {comparison.letters[0]}", "of the difference", "", "how")
    return (
        Markup('<p class="note">{}</p><div class="plots">{}</div>').format(NOTE, plots)
        + told
        + details("As a table, with what the intervals are made from", table(head, cells, caption="Every number"))
    )  # fmt: skip


def _plot(letters: str, row: Row) -> Markup:
    decimals = decimals_of(row)
    shown = [
        Interval(letter, number.value, low, high, group=letter, text=_text(number, decimals))
        for letter, number in zip(letters, row.numbers, strict=True)
        if number is not None
        for low, high in (number.interval or (None, None),)
    ]
    return intervals_svg(
        shown, title=row.name, caption=Markup("<br>").join(_captions(letters, row, decimals)), keys=False
    )


def _text(number: Number | None, decimals: int) -> str:
    if number is None:
        return "–"
    within = "" if number.interval is None else "  [{:.{d}f}, {:.{d}f}]".format(*number.interval, d=decimals)
    return f"{number.value:.{decimals}f}{within}"


def _captions(letters: str, row: Row, decimals: int) -> Iterator[Markup]:
    for letter, change in zip(letters[1:], row.changes, strict=True):
        yield Markup("{}: {}").format(letter, sentence(change, letters[0], decimals))


def sentence(change: Change, first: str, decimals: int) -> str:
    """What is to be said of a number that changed from the run `first`."""
    by = ""
    if change.difference is not None and change.interval is not None:
        low, high = change.interval
        by = f" by {abs(change.difference):.{decimals}f} ({low:+.{decimals}f} to {high:+.{decimals}f}, {change.method})"
    return {
        "higher": f"higher than {first}{by}.",
        "lower": f"lower than {first}{by}.",
        "no difference shown": f"no difference shown: {by.removeprefix(' by ')}." if by else "no difference shown.",
        "the same": f"the same as {first}.",
        "no interval": f"{change.difference or 0:+.{decimals}f}; without intervals, whether by chance is not known.",
        "not comparable": f"not comparable with {first}: {'; '.join(change.why)}.",
        "absent": f"one of {first} and it has no such number.",
    }[change.verdict]


def _cells(letters: str, row: Row) -> Iterator[list[str | Cell]]:
    decimals = decimals_of(row)
    changes: list[Change | None] = [None, *row.changes]
    for letter, number, change in zip(letters, row.numbers, changes, strict=True):
        if number is not None:
            by = "" if change is None or change.difference is None else f"{change.difference:+.{decimals}f}"
            within = _bounds(change.interval, decimals) if change is not None else ""
            verdict = "" if change is None else change.verdict
            how = "; ".join(dict.fromkeys(t for t in (number.method, change.method if change else "") if t))
            yield [
                row.name, letter, Cell(f"{number.value:.{decimals}f}", number=True),
                Cell(_bounds(number.interval, decimals), number=True), Cell(by, number=True),
                Cell(within, number=True), Cell(verdict, strong=verdict in ("higher", "lower")), how,
            ]  # fmt: skip


def _bounds(interval: tuple[float, float] | None, decimals: int) -> str:
    return "" if interval is None else "{:.{d}f} to {:.{d}f}".format(*interval, d=decimals)


def _curves(comparison: Comparison) -> Markup:
    parts, plots = [], list(_curve_plots(comparison))
    if plots:
        parts.append(Markup('<div class="plots">{}</div>').format(Markup().join(plots[:MOST_PLOTS])))
    if len(plots) > MOST_PLOTS:
        parts.append(Markup("<p>{} more are in the files curves.jsonl.</p>").format(len(plots) - MOST_PLOTS))
    if same := [stage for stage in comparison.shared if any(stage in one for one in comparison.curves)]:
        told = "<p>The same training in all runs, not drawn: {}.</p>"
        parts.append(Markup(told).format(", ".join(same)))
    return Markup().join(parts)


def _curve_plots(comparison: Comparison) -> Iterator[Markup]:
    """A plot for each scalar of losses and probes that a run has; those of all runs in the same colours."""
    for stage in comparison.trainings:
        found = [one[stage].scalars if stage in one else {} for one in comparison.curves]
        for name in dict.fromkeys(n for one in found for n in one if n.startswith(("loss/", "probe/"))):
            series = [
                Series(letter, [s for s, _ in one[name]], [v for _, v in one[name]], colour=number)
                for number, (letter, one) in enumerate(zip(comparison.letters, found, strict=True))
                if name in one and any(math.isfinite(value) for _, value in one[name])
            ]
            if series:
                yield curves_svg(series, title=f"{stage} {name}", x_label="step")


def _costs(comparison: Comparison) -> Markup:
    rows: list[list[str | Markup | Cell]] = [
        [row.stage, *(cost_text(cost) for cost in row.costs)] for row in comparison.costs
    ]
    sums = [total(comparison.costs, number) for number in range(len(comparison.runs))]
    rows.append(["in all", *(Cell(_total(*found), strong=True) for found in sums)])
    rows += [[breakable(row.name), *_values(row)] for row in comparison.numbers if not row.is_same]
    found = table(("", *comparison.letters), rows, caption="Device time of all attempts, and the numbers that differ")
    if len(comparison.runs) < FEWEST_POINTS:
        return found
    differing = [row for row in comparison.numbers if not row.is_same]
    plots = Markup().join(_over_cost(comparison, row, [seconds for seconds, _ in sums]) for row in differing)
    return found + Markup('<div class="plots">{}</div>').format(plots)


def _values(row: Row) -> list[Cell]:
    decimals = decimals_of(row)
    return [Cell("–" if n is None else f"{n.value:.{decimals}f}") for n in row.numbers]


def _total(seconds: float, unknown: Sequence[str]) -> str:
    least = f"at least, without {', '.join(unknown)}: " if unknown else ""
    return f"{least}{human_duration(seconds)}"


def _over_cost(comparison: Comparison, row: Row, seconds: Sequence[float]) -> Markup:
    unit, name = (3600, "device-hours") if max(seconds) >= 3600 else (60, "device-minutes")
    points = [
        Point(letter, spent / unit, number.value, y_interval=number.interval)
        for letter, number, spent in zip(comparison.letters, row.numbers, seconds, strict=True)
        if number is not None
    ]
    return scatter_svg(points, title=f"{row.name} over cost", x_label=name, y_label="")
