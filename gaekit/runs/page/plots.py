"""The plots of a page: curves, points with intervals, and values with intervals, each as one `<figure>`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gaekit.runs.page.html import figure, legend
from gaekit.runs.page.svg import COLOURS, SERIES, drawing, series_colour, series_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BUCKETS = 90
"""Pieces of a curve of which the least and the greatest value are drawn: more than a phone has pixels for."""
DECADE = 20
"""A positive quantity that varies by more than this factor is drawn on a logarithmic axis."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Band:
    """How far a curve's values may lie from it: a low and a high one for each of its points."""

    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Series:
    """A curve: y over x, of one length. Values that are not finite are gaps. `colour` is a number from 0, by which
    curves of several plots can share one; by default it is the curve's place."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    band: Band | None = None
    colour: int | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """A point with the interval of either coordinate where it is known. Points of one `group` share a colour."""

    label: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    group: str = ""


@dataclass(frozen=True)
class Interval:
    """A value, with its interval where it is known. `text` is how it reads; by default it is made from the numbers."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""
    text: str | None = None

    @property
    def shown(self) -> str:
        """The value and its interval as text."""
        if self.text is not None:
            return self.text
        known = "" if self.low is None or self.high is None else f"  [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{known}"


def curves_svg(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool | None = None,
    marks: Sequence[tuple[float, str]] = (),
    caption: str | Markup = "",
    height: int = 200,
) -> Markup:
    """Curves over one another with their legend below. `log_y=None` chooses: logarithmic where all values are positive
    and the greatest is more than 20 times the least. `marks` are (x, text) of upright lines. Long curves are drawn by
    the extremes of 90 pieces. Raises GaekitError where matplotlib is absent."""
    thinned = [_thinned(one) for one in series]
    values = [v for one in thinned for v in one.y if math.isfinite(v)]
    log_y = is_logarithmic(values) if log_y is None else log_y and min(values, default=1) > 0
    with drawing(height, f"{title}: {_told(series)}") as (canvas, made):
        axes = canvas.subplots()
        for number, one in enumerate(thinned):
            colour = series_colour(number if one.colour is None else one.colour)
            single = len(one.x) == 1
            axes.plot(one.x, one.y, color=colour, linestyle=_dash(number, one), marker="o" if single else None)
            if one.band is not None:
                axes.fill_between(one.x, one.band.low, one.band.high, color=colour, alpha=0.18, linewidth=0)
        for x, text in marks:
            axes.axvline(x, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)))
            top = axes.get_xaxis_transform()
            axes.annotate(text, (x, 1), xycoords=top, xytext=(3, -2), textcoords="offset points", va="top", fontsize=10)
        axes.set(xlabel=x_label, ylabel=y_label)
        _set_axes(axes, log_x, log_y, whole_x=all(float(x).is_integer() for one in thinned for x in one.x))
        drawn = made()
    keys = [(series_name(n if s.colour is None else s.colour), s.label, _is_dashed(n, s)) for n, s in enumerate(series)]
    return figure(drawn, title=title, caption=caption, keys=legend(keys) if len(series) > 1 else Markup())


def scatter_svg(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    caption: str | Markup = "",
    height: int = 240,
) -> Markup:
    """Points with their intervals; a colour and a mark for each group, named below."""
    groups = list(dict.fromkeys(point.group or point.label for point in points))
    with drawing(height, f"{title}: {len(points)} points") as (canvas, made):
        axes = canvas.subplots()
        for point in points:
            number = groups.index(point.group or point.label)
            axes.errorbar(
                [point.x], [point.y],
                xerr=_error(point.x, point.x_interval), yerr=_error(point.y, point.y_interval),
                color=series_colour(number), marker=MARKERS[number % len(MARKERS)], markersize=6, linestyle="none",
                elinewidth=1.3, capsize=2.5,
            )  # fmt: skip
            if point.group and len(points) <= 12:
                axes.annotate(point.label, (point.x, point.y), xytext=(6, 4), textcoords="offset points", fontsize=10)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(0.12)
        _set_axes(axes, log_x, log_y)
        drawn = made()
    keys = [(series_name(number), name, False) for number, name in enumerate(groups)]
    return figure(drawn, title=title, caption=caption, keys=legend(keys) if len(groups) > 1 else Markup())


def intervals_svg(
    rows: Sequence[Interval],
    *,
    title: str,
    x_label: str = "",
    log_x: bool = False,
    caption: str | Markup = "",
    keys: bool = True,
) -> Markup:
    """A row for each value: its name and number above a point and its interval. Rows of one group share a colour;
    `keys` says whether these are named below."""
    groups = list(dict.fromkeys(row.group for row in rows))
    with drawing(46 + 34 * len(rows), f"{title}: {'; '.join(f'{r.label} {r.shown}' for r in rows)}") as (canvas, made):
        axes = canvas.subplots()
        across = axes.get_yaxis_transform()
        for place, row in enumerate(rows):
            colour = series_colour(groups.index(row.group))
            interval = None if row.low is None or row.high is None else (row.low, row.high)
            axes.errorbar(
                [row.value], [place + 0.22], xerr=_error(row.value, interval), color=colour, marker="o", markersize=5,
                elinewidth=1.8, capsize=3,
            )  # fmt: skip
            axes.text(0, place - 0.12, row.label, transform=across, va="center")
            axes.text(1, place - 0.12, row.shown, transform=across, va="center", ha="right", color=COLOURS["muted"])
        axes.set(xlabel=x_label, ylim=(len(rows) - 0.4, -0.5), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        _set_axes(axes, log_x, False)
        drawn = made()
    named = [(series_name(number), name, False) for number, name in enumerate(groups)] if keys else []
    return figure(drawn, title=title, caption=caption, keys=legend(named) if len(named) > 1 else Markup())


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether values are better read on a logarithmic axis: all positive, and of more than a decade."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > DECADE


def _dash(number: int, one: Series) -> Any:
    return (0, (4, 2)) if _is_dashed(number, one) else "solid"


def _is_dashed(number: int, one: Series) -> bool:
    return one.dashed or (one.colour is None and number >= SERIES)


def _told(series: Sequence[Series]) -> str:
    """What is read out of curves: where each begins and ends."""
    ends = [(one.label, [v for v in one.y if math.isfinite(v)]) for one in series]
    return "; ".join(f"{label} from {y[0]:.4g} to {y[-1]:.4g}" for label, y in ends if y) or "no values"


def _error(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    return None if interval is None else [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def _set_axes(axes: Axes, log_x: bool, log_y: bool, *, whole_x: bool = False) -> None:
    """Few ticks, as plain numbers: powers of ten in raised letters are hard to read, and no text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    for axis, logarithmic, limits, most in (
        (axes.xaxis, log_x, axes.get_xlim, 5), (axes.yaxis, log_y, axes.get_ylim, 5)
    ):  # fmt: skip
        if logarithmic:
            axes.set_xscale("log") if axis is axes.xaxis else axes.set_yscale("log")
            low, high = limits()
            decades = math.log10(max(high, 1e-300) / max(low, 1e-300))
            subs = (1.0, 2.0, 5.0) if decades < 1.6 else (1.0, 3.0) if decades < 3 else (1.0,)
            axis.set_major_locator(LogLocator(10, subs=subs, numticks=8))
            axis.set_minor_locator(NullLocator())
            axis.set_minor_formatter(NullFormatter())
        elif axis is axes.xaxis or axes.get_yticks().size:
            whole = axis is axes.xaxis and whole_x
            axis.set_major_locator(
                MaxNLocator(most, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10], integer=whole)
            )
        axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))


def number_text(value: float) -> str:
    """A number as it stands at an axis: 0.02, 1500, 20k, 3M, 1e-05."""
    for size, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= size:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


@dataclass
class _Kept:
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)


def _thinned(one: Series) -> Series:
    """A curve by the least and the greatest value of each of its pieces, in their order; a band by every so many."""
    count = len(one.x)
    if count <= 2 * BUCKETS:
        return one
    if one.band is not None:
        places = sorted({round(i * (count - 1) / (2 * BUCKETS - 1)) for i in range(2 * BUCKETS)})
        band = Band([one.band.low[i] for i in places], [one.band.high[i] for i in places])
        return Series(one.label, [one.x[i] for i in places], [one.y[i] for i in places], band, one.colour, one.dashed)
    kept = _Kept()
    for bucket in range(BUCKETS):
        piece = range(bucket * count // BUCKETS, (bucket + 1) * count // BUCKETS)
        finite = [i for i in piece if math.isfinite(one.y[i])]
        extremes = {min(finite, key=lambda i: one.y[i]), max(finite, key=lambda i: one.y[i])} if finite else {piece[0]}
        ends = {0} if bucket == 0 else {count - 1} if bucket == BUCKETS - 1 else set()
        for i in sorted(extremes | ends):
            kept.x.append(one.x[i])
            kept.y.append(one.y[i])
    return Series(one.label, kept.x, kept.y, None, one.colour, one.dashed)
