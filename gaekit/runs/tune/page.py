"""A search's result as a page: the numbers made anew, what was tried, and the front where there are two numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from gaekit import __version__
from gaekit.runs.page import (
    Cell,
    Interval,
    Point,
    Series,
    curves_svg,
    details,
    intervals_svg,
    render,
    require_extra,
    scatter_svg,
    table,
)
from gaekit.runs.tune.space import Choice
from gaekit.runs.tune.text import about, command_text, cost_text, gain_text, label_of, recipe_text, reported_text

Result = Mapping[str, Any]


def make_page(found: Result, command: list[str]) -> str:
    """One HTML file; `command` is what made the run. Raises GaekitError where the extra `report` is absent."""
    require_extra()
    names = [one["name"] for one in found["metrics"]]
    plots = Markup().join([*_reported(found, names), *_searched(found, names), *_over_settings(found, names[0])])
    sections = [
        ("numbers", "Numbers", Markup('<div class="plots">{}</div>').format(plots)),
        ("best", "Settings", Markup().join(_best(found, entry, command) for entry in found["best"])),
        ("all", "Evaluations", details(f"{found['evaluations']} evaluations", _trials(found, names))),
    ]
    return render(
        "tuning.html",
        name=found["run"],
        about=f"{' and '.join(names)} by guidance and time shift. {about(found)}",
        cost=cost_text(found),
        sections=sections,
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _reported(found: Result, names: list[str]) -> Iterator[Markup]:
    for name in names:
        rows = []
        for entry in (found["own"], *found["best"]):
            number = entry["reported"][name]
            low, high = number.get("interval") or (None, None)
            label = label_of(found, entry)
            rows.append(Interval(label, number["value"], low, high, group=label, text=reported_text(number)))
        title = f"{name}, anew on seed {found['reported_on']['seed']}"
        yield intervals_svg(rows, title=title, keys=False)


def _searched(found: Result, names: list[str]) -> Iterator[Markup]:
    """Of one number its course, of two both of every evaluation."""
    trials, seed = found["trials"], found["tuned_on"]["seed"]
    if len(names) == 1:
        values = [trial["values"][0] for trial in trials]
        better = min if found["metrics"][0]["better"] == "lower" else max
        steps = list(range(1, len(values) + 1))
        best = [better(values[:step]) for step in steps]
        series = [Series("evaluation", steps, values), Series("best so far", steps, best)]
        yield curves_svg(series, title=f"{names[0]}, tuned on seed {seed}", x_label="evaluation", log_y=False)
        return
    front = set(found["front"])
    points = [
        Point(str(t["number"] + 1), t["values"][0], t["values"][1], group="front" if t["number"] in front else "others")
        for t in sorted(trials, key=lambda t: t["number"] not in front)
    ]
    yield scatter_svg(points, title=f"Every evaluation, on seed {seed}", x_label=names[0], y_label=names[1])


def _over_settings(found: Result, name: str) -> Iterator[Markup]:
    for key in ("scale", "start", "end", "shift"):
        if found["own"]["settings"][key] is None or len({t["settings"][key] for t in found["trials"]}) < 2:
            continue
        points = [Point("", t["settings"][key], t["values"][0]) for t in found["trials"]]
        yield scatter_svg(points, title=f"{name} over {key}", x_label=key, y_label="", log_x=key == "shift")


def _best(found: Result, entry: Mapping[str, Any], command: list[str]) -> Markup:
    gains = [f"{one['name']}: {gain_text(found, entry, one['name'])}." for one in found["metrics"]]
    return Markup('<h3>{}: {}</h3>{}<pre class="command">{}</pre><pre tabindex="0">{}</pre>').format(
        label_of(found, entry).capitalize(),
        Choice(**entry["settings"]),
        Markup().join(Markup("<p>{}</p>").format(gain) for gain in gains),
        command_text(entry, command),
        recipe_text(entry),
    )


def _trials(found: Result, names: list[str]) -> Markup:
    rows = [_row(trial) for trial in found["trials"]]
    head = ("evaluation", "settings", *names, "network evaluations an image", "seconds")
    return table(head, rows, caption="Every evaluation")


def _row(trial: Mapping[str, Any]) -> list[str | Cell]:
    numbers = [f"{value:.5g}" for value in trial["values"]]
    cost = [f"{trial['cost']['evaluations_per_image']:.0f}", f"{trial['cost']['seconds']:.1f}"]
    cells = [Cell(text, number=True) for text in (*numbers, *cost)]
    return [str(trial["number"] + 1), str(Choice(**trial["settings"])), *cells]
