"""A run in the bands of a reference, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.text import Text

from gaekit.intervals import decimals, student_t
from gaekit.runs.compare.bands import Bounds, CurveInBand, InBand, NumberInBand
from gaekit.runs.compare.text import section, wrapped


def verdict_of(found: InBand) -> str:
    """The whole outcome in a sentence or two."""
    numbers, curves = found.judged_numbers, found.judged_curves
    what = f"{found.run.path} and the band of {found.name} ({len(found.reference.seeds)} runs)"
    if not numbers and not curves:
        return f"{what}: nothing can be compared yet."
    inside = sum(number.verdict == "inside" for number in numbers)
    kept = sum(curve.left is None for curve in curves)
    counts = [f"{inside} of {len(numbers)} numbers"] * bool(numbers) + [f"{kept} of {len(curves)} curves"] * bool(
        curves
    )
    told = f"{found.run.path} {'lies within' if found.is_inside else 'leaves'} the band of {found.name}: "
    told += f"{' and '.join(counts)} {'are' if len(numbers) + len(curves) > 1 else 'is'} inside."
    return told


def what_a_band_is(found: InBand) -> str:
    """How a band is made, and how wide that makes it."""
    n = len(found.reference.seeds)
    wide = student_t(n - 1) * math.sqrt(1 + 1 / n)
    return (
        f"A band is the 95 % prediction interval of Student's t for one more run: the mean of {n} runs ± {wide:.2f} of "
        "their standard deviations. A curve has left it where it is not finite, and where more than a fifth of its "
        "steps, of few more than chance explains, lie outside: of a run that differs in its seed alone at most one "
        "curve in eleven."
    )


def notes(found: InBand) -> Iterator[str]:
    """What a reader must know to trust the verdict."""
    if found.differing:
        keys = ", ".join(f"{s.key} ({' and '.join(s.texts)})" for s in found.differing)
        yield f"the recipe is not the reference's, which the bands are about: {keys}"
    if found.unknown:
        keys = ", ".join(f"{s.key} ({' and '.join(s.texts)})" for s in found.unknown)
        yield f"settings that one of the two recipes does not have, as of another version of gaekit: {keys}"
    if found.revisions:
        yield f"the reference and the run were made by different revisions of {', '.join(found.revisions)}"
    if (seed := found.run.settings.get("seed")) in found.reference.seeds:
        yield f"its seed, {seed}, is one of the reference's, so it should lie nearer to it than the bands are wide"
    own, known = found.run.settings.get("runtime", {}).get("log_every"), found.reference.log_every
    if known is not None and own != known:
        yield f"logged every {own} steps, and every {known} in the reference: points are means over other steps"
    if other := [number.name for number in found.numbers if number.verdict == "not comparable"]:
        yield f"numbers of another protocol, which no band is about: {', '.join(other)}"
    if found.missing:
        yield f"curves that the run does not have yet: {', '.join(found.missing)}"


def lines_of(found: InBand, width: int = 80) -> Iterator[Text]:
    """Everything, line by line, at most so wide."""
    yield Text(verdict_of(found), style="bold")
    yield from wrapped(f"reference: {found.reference.about}", width)
    for note in notes(found):
        yield from wrapped(f"note: {note}", width)
    yield from section("Numbers", _numbers(found, width))
    yield from section("Curves", _curves(found, width))
    yield Text()
    yield from wrapped(what_a_band_is(found), width)


def _decimals_of(band: Bounds | None) -> int:
    return decimals(0.0 if band is None else (band[1] - band[0]) / 2)


def bounds_text(band: Bounds | None) -> str:
    """A band in a cell."""
    return "" if band is None else "{:.{d}f} to {:.{d}f}".format(*band, d=_decimals_of(band))


def value_text(number: NumberInBand) -> str:
    """A number in a cell, with the decimals of its band."""
    return "–" if number.value is None else f"{number.value:.{_decimals_of(number.band)}f}"


def curve_text(curve: CurveInBand) -> str:
    """Where a curve lies, in a sentence."""
    until = "" if not curve.points or curve.points == len(curve.steps) else f", up to step {_reached(curve):,}"
    if not curve.points:
        return "no step of it can be compared yet"
    if curve.left is None:
        aside = f", {curve.outside} outside, as chance has it" if curve.outside else ""
        steps = "1 step" if curve.points == 1 else f"{curve.points} steps"
        return f"inside ({steps}{aside}{until})"
    left = curve.left
    end = "to the end" if left.last == curve.steps[-1] else f"to step {left.last:,}"
    steps = f"{left.outside} of {left.points} steps {'not finite' if math.isnan(left.by) else 'outside'}{until}"
    told = f"left at step {left.first:,}, {end} ({steps})"
    if math.isnan(left.by):
        return told
    low, high = left.band
    where = f"{abs(left.by):.3g} {'above' if left.by > 0 else 'below'} it"
    return f"{told}; farthest at step {left.step:,}: {left.value:.4g}, {where} ({low:.4g} to {high:.4g})"


def _reached(curve: CurveInBand) -> int:
    return max(step for step, value in zip(curve.steps, curve.values, strict=True) if value is not None)


def _numbers(found: InBand, width: int) -> Iterator[Text]:
    names = max((len(number.name) for number in found.numbers), default=0)
    for number in found.numbers:
        value, band = value_text(number), bounds_text(number.band)
        style = {"inside": "dim", "absent": "dim", "no band": "dim"}.get(number.verdict, "bold yellow")
        band = f"[{band}]" if band else ""
        line = Text.assemble(f"  {number.name:<{names}}  {value:>8}  {band:<22}  ", (number.verdict, style))
        if line.cell_len > width:
            yield Text(f"  {number.name}")
            line = Text.assemble(f"      {value:>8}  {band:<22}  ", (number.verdict, style))
        yield line
        for why in number.why:
            yield from wrapped(why, width, " " * 6, " " * 8)


def _curves(found: InBand, width: int) -> Iterator[Text]:
    for curve in found.curves:
        if curve.left is None:
            yield Text.assemble(f"  {curve.title}  ", (curve_text(curve), "dim"))
        else:
            yield Text.assemble(f"  {curve.title}  ", ("left its band", "bold yellow"))
            yield from wrapped(curve_text(curve), width, " " * 6, " " * 6)
