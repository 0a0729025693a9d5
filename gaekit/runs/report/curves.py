"""The curves of every training: its losses, its probes, and how it went."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from gaekit.runs.page import Series, curves_svg, details
from gaekit.runs.report.parts import heading, joined, note, plots
from gaekit.runs.report.source import Absent, Source
from gaekit.store.curves import Curves

MOST_PLOTS = 60
PROBE, NOISED, WEIGHED = "probe", "noised", "Terms as they are weighed"
VARIANTS = {"raw": "raw weights", "ema": "averaged weights", "noise": "no better than noise"}
"""How a probe's scalars end that stand in one plot, and what that means."""
Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Panel:
    """One plot: its title and curves; whether it is about how the training went, not about what it learns; and the step
    of the best probe, where these curves decide which that is."""

    title: str
    curves: Mapping[str, Points]
    aside: bool = False
    best: int | None = None


def curves(source: Source) -> Markup:
    """A part for each training of the run."""
    parts, seen = [], 0
    for stage in source.record["stages"]:
        found = source.curves(stage)
        if not found.scalars:
            continue
        panels = panels_of(found, (source.record["stages"][stage].get("record") or {}).get("probe"))
        shown, seen = panels[: max(0, MOST_PLOTS - seen)], seen + len(panels)
        parts.append(joined([heading(stage), *_drawn(shown)]))
    if not parts:
        raise Absent(
            "This run has no curves: its trainings were made elsewhere, or before curves were kept (curves.jsonl)."
        )
    over = (
        [note(f"{seen - MOST_PLOTS} more curves are in the files curves.jsonl of the stages.")]
        if seen > MOST_PLOTS
        else []
    )
    return joined(
        [
            note("Means over the steps between two logs. Axes are logarithmic where values span more than a decade."),
            *parts,
            *over,
        ]
    )


def _drawn(panels: Sequence[Panel]) -> list[Markup]:
    main = [_plot(panel) for panel in panels if not panel.aside]
    aside = [_plot(panel) for panel in panels if panel.aside]
    return [plots(main), details("How it went: rates, norms, times", plots(aside)) if aside else Markup()]


def _plot(panel: Panel) -> Markup:
    series = [
        Series(label, [step for step, _ in points], [value for _, value in points])
        for label, points in panel.curves.items()
    ]
    marks = [] if panel.best is None else [(panel.best, "best")]
    return curves_svg(series, title=panel.title, x_label="step", marks=marks)


def panels_of(found: Curves, probe: Mapping[str, Any] | None = None) -> list[Panel]:
    """Plots of a training's scalars: each loss, beside its value on held-out images where a probe has it; all terms as
    they are weighed in one; the probes; and apart, what tells how the training went.

    probe: what the stage's record keeps of its probes, of which the best is marked where its number is drawn.
    """
    named = {name: points for name, points in found.scalars.items() if any(math.isfinite(value) for _, value in points)}
    groups: dict[str, dict[str, Points]] = defaultdict(dict)
    for name, points in named.items():
        title, label = _place(name, named)
        groups[title][label] = points
    if len(groups[WEIGHED]) < 2:  # a single term is the loss itself
        del groups[WEIGHED]
    best = (probe or {}).get("best")
    marked = _place(str(probe["by"]).rpartition(" ")[2], named)[0] if probe and best else None
    panels = [
        Panel(title, curves, _is_aside(title), best["step"] if best and title == marked else None)
        for title, curves in groups.items()
    ]
    return sorted(panels, key=lambda panel: (panel.aside, _rank(panel.title), panel.title))


def _place(name: str, named: Collection[str]) -> tuple[str, str]:
    """(the plot in which a scalar stands, its label there)."""
    head, _, rest = name.partition("/")
    path, _, last = rest.rpartition("/")
    if head == "weighted":
        return WEIGHED, rest
    if head == "loss":
        return name, "training"
    if head == PROBE and last == NOISED:
        title, label = _place(f"{head}/{path}", named)
        return title, f"{label}, under noise"
    if head == PROBE and path and last in VARIANTS:
        return (path, f"held-out, {VARIANTS[last]}") if path in named else (f"{head}/{path}", VARIANTS[last])
    if head == PROBE and path and (at := re.fullmatch(r"t([\d.]+)", last)):
        return f"{head}/{path} by time", f"t = {float(at[1]):.3g}"
    return name, name


def _is_aside(title: str) -> bool:
    return title.startswith("train/") or title == f"{PROBE}/seconds"


def _rank(title: str) -> int:
    return 0 if title.startswith("loss/") else 1 if title.startswith(PROBE) else 2
