"""A run in the bands of a reference, as a page: every number and every curve over its band."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from gaekit import __version__
from gaekit.runs.compare.bands import CurveInBand, InBand, NumberInBand
from gaekit.runs.compare.bands_text import bounds_text, curve_text, notes, value_text, verdict_of, what_a_band_is
from gaekit.runs.page import (
    Band,
    Cell,
    Interval,
    Series,
    breakable,
    curves_svg,
    definitions,
    intervals_svg,
    render,
    require_extra,
    table,
)


def make_page(found: InBand) -> str:
    """One HTML file. Raises GaekitError where the extra `report` is absent."""
    require_extra()
    told = [verdict_of(found), *(f"Note: {note}." for note in notes(found)), what_a_band_is(found)]
    about = Markup().join(Markup("<p>{}</p>").format(text) for text in told)
    sections = [
        ("verdict", "What was found", about + _left(found)),
        ("numbers", "Numbers", _numbers(found)),
        ("curves", "Curves", _curves(found)),
    ]
    name = found.run.path.resolve().name
    return render(
        "compare.html",
        title=f"{name} in the band of {found.name}",
        runs=[
            ("band", found.name, found.reference.about, "done"),
            ("run", name, str(found.run.path), found.run.state),
        ],
        sections=[section for section in sections if section[2]],
        version=__version__,
    )


def _left(found: InBand) -> Markup:
    outside = [(breakable(n.name), _number_text(n)) for n in found.judged_numbers if n.verdict != "inside"]
    outside += [(breakable(curve.title), curve_text(curve)) for curve in found.curves if curve.left is not None]
    return Markup("<h3>Outside of their bands</h3>{}").format(definitions(outside)) if outside else Markup()


def _number_text(number: NumberInBand) -> str:
    return f"{value_text(number)}, {number.verdict} its band, {bounds_text(number.band)}"


def _numbers(found: InBand) -> Markup:
    plots = Markup().join(_number_plot(found, n) for n in found.judged_numbers if n.band and n.value is not None)
    rows: list[list[str | Cell]] = [
        [n.name, Cell(value_text(n), number=True), Cell(bounds_text(n.band), number=True),
         Cell(n.verdict, strong=n.verdict in ("above", "below", "not finite")), Cell("; ".join(n.why), wide=True)]
        for n in found.numbers
    ]  # fmt: skip
    head = ("number", "value", "band", "", "why")
    return Markup('<div class="plots">{}</div>{}').format(plots, table(head, rows, caption="Every number"))


def _number_plot(found: InBand, number: NumberInBand) -> Markup:
    assert number.band is not None
    assert number.value is not None
    low, high = number.band
    value = Interval("run", number.value, group="run", text=f"{value_text(number)}, {number.verdict}")
    band = Interval("band", (low + high) / 2, low, high, group="band", text=bounds_text(number.band))
    return intervals_svg([band, value] if math.isfinite(number.value) else [band], title=number.name, keys=False)


def _curves(found: InBand) -> Markup:
    plots = Markup().join(_plots(found.curves))
    return Markup('<div class="plots">{}</div>').format(plots) if plots else Markup()


def _plots(curves: tuple[CurveInBand, ...]) -> Iterator[Markup]:
    """Those that left their band first."""
    for curve in sorted(curves, key=lambda curve: curve.left is None):
        lows, highs = [low for low, _ in curve.bands], [high for _, high in curve.bands]
        middle = [(low + high) / 2 for low, high in curve.bands]
        values = [math.nan if value is None else value for value in curve.values]
        series = [Series("band", curve.steps, middle, Band(lows, highs), colour=0)]
        if any(math.isfinite(value) for value in values):
            series.append(Series("run", curve.steps, values, colour=1))
        marks = [(curve.left.first, "left")] if curve.left else []
        yield curves_svg(series, title=curve.title, x_label="step", marks=marks, caption=f"{curve_text(curve)}.")
