"""A comparison for the terminal: at most as wide as asked for, 80 columns where nobody's screen tells."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.text import Text

from gaekit.intervals import decimals
from gaekit.runs.compare.comparison import Comparison
from gaekit.runs.compare.cost import Cost, total
from gaekit.runs.compare.numbers import Change, Number, Row
from gaekit.runs.compare.settings import Setting
from gaekit.store.files import human_duration

MOST_CURVES = 12
"""Curves of a stage whose last values are listed; the page has all."""
NOTE = (
    "Intervals, 95 %, are about other images of the same making, not about another training. Of twenty numbers that "
    "do not differ, one may look as if it did."
)


def lines_of(comparison: Comparison, width: int = 80) -> Iterator[Text]:
    """The whole comparison, line by line."""
    for letter, run in zip(comparison.letters, comparison.runs, strict=True):
        yield Text.assemble(
            (letter, "bold"), f"  {run.path}", ("" if run.state == "done" else f"  ({run.state})", "yellow")
        )
    yield from section("Recipe", _settings(comparison, width))
    yield from section("Numbers", _numbers(comparison, width))
    yield from section("Curves, last values", _curves(comparison, width))
    yield from section("Cost", _costs(comparison, width))


def section(title: str, lines: Iterator[Text]) -> Iterator[Text]:
    """Lines under a title; nothing where there are none."""
    found = list(lines)
    if found:
        yield from (Text(), Text(title, style="bold"), *found)


def _settings(comparison: Comparison, width: int) -> Iterator[Text]:
    if not comparison.settings:
        yield Text("  no setting differs")
    yield from _beside(comparison.letters, [(s.key, s.texts) for s in comparison.settings], width)
    if comparison.runtime:
        keys = ", ".join(_without_head(setting) for setting in comparison.runtime)
        told = f"runtime differs too, which changes no result: {keys}"
        yield from wrapped(told, width)


def _without_head(setting: Setting) -> str:
    return setting.key.partition(".")[2]


def _numbers(comparison: Comparison, width: int) -> Iterator[Text]:
    for row in comparison.numbers:
        if row.is_same:
            continue
        yield Text(f"  {row.name}")
        decimals = decimals_of(row)
        changes: list[Change | None] = [None, *row.changes]
        for letter, number, change in zip(comparison.letters, row.numbers, changes, strict=True):
            yield _number(letter, number, change, decimals)
            for why in change.why if change else ():
                yield from wrapped(why, width, " " * 7, " " * 9)
    same = [f"{row.name} {_value(row.numbers[0], decimals_of(row))}" for row in comparison.numbers if row.is_same]
    if same:
        yield from wrapped(f"the same in all: {', '.join(same)}", width)
    if any(change.is_paired and change.verdict != "the same" for row in comparison.numbers for change in row.changes):
        yield Text("  * of the same held-out images, one by one", style="dim")
    if comparison.numbers:
        yield from wrapped(NOTE, width)


def _value(number: Number | None, decimals: int) -> str:
    return "–" if number is None else f"{number.value:.{decimals}f}"


def wrapped(text: str, width: int, indent: str = "  ", further: str = "  ") -> Iterator[Text]:
    """Dim lines, none wider than asked for."""
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False)
    yield from (Text(line, style="dim") for line in lines)


def _number(letter: str, number: Number | None, change: Change | None, decimals: int) -> Text:
    if number is None:
        return Text.assemble("    ", (letter, "bold"), ("  has no such number", "dim"))
    shown = f"{number.value:.{decimals}f}"
    within = "" if number.interval is None else f"[{_bounds(number.interval, decimals)}]"
    line = Text.assemble("    ", (letter, "bold"), f"  {shown:<9} {within:<20}")
    if change is not None and change.verdict not in ("absent",):
        line.append_text(_change(change, decimals))
    line.rstrip()
    return line


def _change(change: Change, decimals: int) -> Text:
    by = "" if change.difference is None or change.verdict == "the same" else f"{change.difference:+.{decimals}f} "
    within = (
        ""
        if change.interval is None or change.verdict == "the same"
        else f"[{_bounds(change.interval, decimals, '+')}] "
    )
    style = {"higher": "bold cyan", "lower": "bold cyan", "not comparable": "yellow"}.get(change.verdict, "dim")
    verdict = change.verdict.replace("no difference shown", "not shown")
    return Text.assemble(by, within, (verdict, style), " *" if change.is_paired and by else "")


def _bounds(interval: tuple[float, float], decimals: int, sign: str = "") -> str:
    return ", ".join(f"{bound:{sign}.{decimals}f}" for bound in interval)


def decimals_of(row: Row) -> int:
    """As many decimals as two digits of the narrowest interval have, its difference's included; four without one."""
    intervals = [n.interval for n in row.numbers if n is not None and n.interval]
    widths = [
        (high - low) / 2 for low, high in (*intervals, *(c.interval for c in row.changes if c.interval)) if high > low
    ]
    return decimals(min(widths, default=0.0))


def _curves(comparison: Comparison, width: int) -> Iterator[Text]:
    if same := [stage for stage in comparison.shared if any(stage in one for one in comparison.curves)]:
        yield from wrapped(f"the same training in all: {', '.join(same)}", width)
    for stage in comparison.trainings:
        found = [one[stage].scalars if stage in one else {} for one in comparison.curves]
        names = [
            name for name in dict.fromkeys(n for one in found for n in one) if name.startswith(("loss/", "probe/"))
        ]
        rows = []
        for name in names[:MOST_CURVES]:
            ends = [one[name][-1] if one.get(name) else None for one in found]
            rows.append((f"{stage} {name}", [f"{end[1]:.4g} at {end[0]:,}" if end else "–" for end in ends]))
        yield from _beside(comparison.letters, rows, width)
        if len(names) > MOST_CURVES:
            yield Text(
                f"  {stage}: {len(names) - MOST_CURVES} more are in its curves.jsonl, and on the page", style="dim"
            )


def _costs(comparison: Comparison, width: int) -> Iterator[Text]:
    rows = [(row.stage, [cost_text(cost) for cost in row.costs]) for row in comparison.costs]
    sums = [total(comparison.costs, number) for number in range(len(comparison.runs))]
    rows.append(("in all, device time", [("at least " if unknown else "") + human_duration(s) for s, unknown in sums]))
    yield from _beside(comparison.letters, rows, width)


def cost_text(cost: Cost | None) -> str:
    """A stage's cost in a cell."""
    if cost is None:
        return "–"
    if cost.device_seconds is None:
        return "not known"
    steps = f"{cost.steps:,} steps, " if cost.steps else ""
    facts = [*(["steps alone"] if cost.only_steps else []), *(["shared"] if cost.is_shared else [])]
    return f"{steps}{human_duration(cost.device_seconds)}{' (' + ', '.join(facts) + ')' if facts else ''}"


def _beside(letters: str, rows: Sequence[tuple[str, Sequence[str]]], width: int) -> Iterator[Text]:
    """Rows as a table where it is narrow enough, else the values of each below its name."""
    if not rows:
        return
    columns = [max(len(letter), *(len(values[i]) for _, values in rows)) for i, letter in enumerate(letters)]
    names = max(len(name) for name, _ in rows)
    if 2 + names + sum(2 + column for column in columns) <= width:
        head = "".join(f"  {letter:<{column}}" for letter, column in zip(letters, columns, strict=True))
        yield Text(f"  {'':<{names}}{head}".rstrip(), style="dim")
        for name, values in rows:
            cells = "".join(f"  {value:<{column}}" for value, column in zip(values, columns, strict=True))
            yield Text(f"  {name:<{names}}{cells}".rstrip())
        return
    for name, values in rows:
        yield Text(f"  {name}")
        for letter, value in zip(letters, values, strict=True):
            lines = textwrap.wrap(value, width - 7) or [""]
            yield Text.assemble("    ", (letter, "bold"), f"  {lines[0]}")
            yield from (Text(f"       {line}") for line in lines[1:])
