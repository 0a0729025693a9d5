"""A run against the bands of reference curves: where one more run of the same recipe would lie, and where it does not.

The band at a step, and of a number, is the 95 % prediction interval of Student's t for one more run. A run that differs
in nothing but its seed leaves it at one step in twenty, so a curve counts as having left its band only where more than
a fifth of its steps lie outside, and more than chance would have of so few, or where it is not finite. Of curves that
differ in their seed alone, that is so of two in a hundred where every step has its own noise, and of nine where a curve
goes its own slow way.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gaekit.errors import GaekitError
from gaekit.intervals import prediction_interval, student_t
from gaekit.runs.compare.numbers import Number, numbers_of, obstacles
from gaekit.runs.compare.reference import (
    CurveRuns,
    NumberRuns,
    Reference,
    curves_of,
    find_reference,
    means_between,
    recipe_differences,
    revision_differences,
    revisions_of,
)
from gaekit.runs.compare.settings import Setting
from gaekit.runs.opened import OpenRun

OUTSIDE = 0.05
"""The share of steps at which one more run lies outside of a band of 95 %."""
FIFTH = 5
"""One in so many steps of a curve may lie outside of its band."""
RESOLUTION = 1e-5
"""Values that differ by less, relative to their size, are the same: those of a reference are rounded."""
Bounds = tuple[float, float]
Verdict = Literal["inside", "above", "below", "not finite", "not comparable", "absent", "no band"]


@dataclass(frozen=True)
class NumberInBand:
    """A number of the run, its band and where it lies; `why` it cannot be compared, a line each."""

    name: str
    value: float | None
    band: Bounds | None
    verdict: Verdict
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stretch:
    """The steps in which a curve lies outside of its band more often than inside, from `first` to `last`: `outside` of
    `points`. Its farthest point is `value` at `step`, where the band is `band`; `by` is the way to its nearer edge,
    negative below."""

    first: int
    last: int
    outside: int
    points: int
    step: int
    value: float
    band: Bounds
    by: float


@dataclass(frozen=True)
class CurveInBand:
    """A curve of the run: at each of the steps the band and the run's value. `outside` of `points` values lie outside,
    and `left` is where, if these are more than chance explains or one is not finite. `length`: the last step of the
    reference."""

    stage: str
    name: str
    steps: tuple[int, ...]
    bands: tuple[Bounds, ...]
    values: tuple[float | None, ...]
    points: int
    outside: int
    length: int
    left: Stretch | None = None

    @property
    def title(self) -> str:
        """Its stage and name."""
        return f"{self.stage} {self.name}"


@dataclass(frozen=True)
class InBand:
    """A run beside a reference. `differing`: settings that decide results and differ; `unknown`: those that one of the
    two recipes lacks. `missing`: curves of the reference that the run does not have yet. `revisions`: stages and
    components of which another revision made the reference."""

    run: OpenRun
    name: str
    reference: Reference
    numbers: tuple[NumberInBand, ...]
    curves: tuple[CurveInBand, ...]
    differing: tuple[Setting, ...]
    unknown: tuple[Setting, ...]
    missing: tuple[str, ...]
    revisions: tuple[str, ...] = ()

    @property
    def judged_numbers(self) -> list[NumberInBand]:
        """Numbers that lie in their band or outside of it."""
        return [n for n in self.numbers if n.verdict in ("inside", "above", "below", "not finite")]

    @property
    def judged_curves(self) -> list[CurveInBand]:
        """Curves with any point that can be held against the band."""
        return [curve for curve in self.curves if curve.points]

    @property
    def is_inside(self) -> bool:
        """Whether every number is inside and no curve left, of those that can be judged."""
        return all(n.verdict == "inside" for n in self.judged_numbers) and all(c.left is None for c in self.curves)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "run": str(self.run.path),
            "state": self.run.state,
            "reference": {"name": self.name, **self.reference.model_dump(include={"recipe", "seeds", "gaekit"})},
            "inside": self.is_inside if self.judged_numbers or self.judged_curves else None,
            "settings": [{"key": s.key, "texts": list(s.texts)} for s in self.differing],
            "numbers": [asdict(number) for number in self.numbers],
            "curves": [_curve_json(curve) for curve in self.curves],
            "missing": list(self.missing),
            "revisions": list(self.revisions),
        }


def compare_to(run: OpenRun, source: str, *, anyway: bool = False) -> InBand:
    """Hold a run, finished or not, against the reference curves of a shipped recipe or of a file.

    Raises GaekitError, naming what differs, where its recipe is another one in anything that decides results, unless
    `anyway`; and where there is no such reference.
    """
    name, reference = find_reference(source)
    differing, unknown = recipe_differences(reference, run.settings)
    if differing and not anyway:
        shown = [f"{s.key} is {s.texts[1]}, and {s.texts[0]} in the reference" for s in differing[:8]]
        more = [f"and {len(differing) - 8} settings more"] if len(differing) > 8 else []
        raise GaekitError(
            f"{run.path}: its recipe is not that of the reference '{name}', so no band is about it: "
            f"{'; '.join([*shown, *more])}. Add --anyway to compare all the same"
        )
    own = curves_of(run)
    curves = [
        judge_curve(stage, curve, found, own[stage][curve])
        for stage, of_stage in reference.curves.items()
        for curve, found in of_stage.items()
        if curve in own.get(stage, {})
    ]
    missing = [f"{s} {c}" for s, found in reference.curves.items() for c in found if c not in own.get(s, {})]
    numbers = judge_numbers(reference.numbers, numbers_of(run.metrics, run.path))
    return InBand(
        run, name, reference, tuple(numbers), tuple(curves), tuple(differing), tuple(unknown), tuple(missing),
        tuple(revision_differences(reference.revisions, revisions_of(run))),
    )  # fmt: skip


def judge_numbers(known: Mapping[str, NumberRuns], own: Mapping[str, Number]) -> Iterator[NumberInBand]:
    """Every number of the reference, and then those that the run alone has."""
    for name, runs in known.items():
        number, band = own.get(name), number_band(runs)
        if number is None:
            yield NumberInBand(name, None, band, "absent")
        elif why := obstacles(runs.protocol, number.protocol):
            yield NumberInBand(name, number.value, band, "not comparable", why)
        else:
            yield NumberInBand(name, number.value, band, "no band" if band is None else _place(number.value, band))
    for name, number in own.items():
        if name not in known:
            yield NumberInBand(name, number.value, None, "no band")


def number_band(runs: NumberRuns) -> Bounds | None:
    """Where the number of one more run lies. Runs that all have the same say nothing of a spread; of them it is the
    interval that the number itself has. None of fewer than two runs."""
    values = [value for value in runs.values if value is not None and math.isfinite(value)]
    if len(values) > 1 and len(set(values)) == 1 and runs.interval is not None:
        return runs.interval
    found = prediction_interval(values)
    return None if found is None else (found.low, found.high)


def curve_bands(runs: Sequence[Sequence[float | None]]) -> list[Bounds | None]:
    """The band at each step, from the runs' values there. Where these are all the same, the spread is that of the
    nearest step where they are not; None where one is not known."""
    rows = [None if None in row else [v for v in row if v is not None] for row in zip(*runs, strict=True)]
    spreads = [None if row is None else statistics.stdev(row) for row in rows]
    spread = [place for place, value in enumerate(spreads) if value]
    factor = student_t(len(runs) - 1) * math.sqrt(1 + 1 / len(runs))
    found: list[Bounds | None] = []
    for place, row in enumerate(rows):
        if row is None:
            found.append(None)
            continue
        nearest = min(spread, key=lambda other: abs(other - place), default=None)
        half = factor * (spreads[nearest] or 0.0) if nearest is not None else 0.0
        mean = math.fsum(row) / len(row)
        half = max(half, RESOLUTION * abs(mean))
        found.append((mean - half, mean + half))
    return found


def judge_curve(stage: str, name: str, known: CurveRuns, points: Sequence[tuple[int, float]]) -> CurveInBand:
    """A curve of (step, value) against the runs of a reference."""
    bands = curve_bands(known.runs)
    values = means_between(points, known.steps)
    places = [p for p, band in enumerate(bands) if band is not None]
    steps = tuple(known.steps[p] for p in places)
    kept = tuple(band for band in bands if band is not None)
    own = tuple(values[p] for p in places)
    there = [p for p, value in enumerate(own) if value is not None]
    excess = [_excess(own[p], kept[p]) for p in there]
    outside = sum(by != 0 for by in excess)
    left = None
    if broken := any(map(math.isnan, excess)):  # which no chance explains, so it is told before all else
        excess = [by if math.isnan(by) else 0.0 for by in excess]
    if broken or outside > most_by_chance(len(there)):
        left = _stretch([steps[p] for p in there], [own[p] for p in there], [kept[p] for p in there], excess)
    return CurveInBand(stage, name, steps, kept, own, len(there), outside, known.steps[-1], left)


def most_by_chance(points: int) -> int:
    """As many of a curve's points may lie outside: a fifth, as the steps of a curve depend on each other, and of few
    points the least c such that more than c of independent ones lie outside in at most 5 % of cases."""
    below = 0.0
    for count in range(points + 1):
        below += math.comb(points, count) * OUTSIDE**count * (1 - OUTSIDE) ** (points - count)
        if below >= 1 - OUTSIDE:
            return max(count, points // FIFTH)
    return points


def _stretch(
    steps: Sequence[int], values: Sequence[float | None], bands: Sequence[Bounds], excess: Sequence[float]
) -> Stretch:
    """The stretch in which points outside outnumber those inside by the most (Kadane's maximal sum of +1 and -1)."""
    best, best_sum, begin, running = (0, 0), 0, 0, 0
    for place, by in enumerate(excess):
        if running <= 0:
            begin, running = place, 0
        running += 1 if by else -1
        if running > best_sum:
            best, best_sum = (begin, place), running
    first, last = best
    far = max(range(first, last + 1), key=lambda p: math.inf if math.isnan(excess[p]) else abs(excess[p]))
    value = values[far]
    return Stretch(
        steps[first], steps[last], sum(by != 0 for by in excess[first : last + 1]), last - first + 1,
        steps[far], math.nan if value is None else value, bands[far], excess[far],
    )  # fmt: skip


def _excess(value: float | None, band: Bounds) -> float:
    """How far a value lies above its band, negative below; 0 inside; nan where it is not finite."""
    if value is None or not math.isfinite(value):
        return math.nan
    low, high = band
    return value - high if value > high else value - low if value < low else 0.0


def _place(value: float, band: Bounds) -> Verdict:
    by = _excess(value, band)
    return "not finite" if math.isnan(by) else "above" if by > 0 else "below" if by < 0 else "inside"


def _curve_json(curve: CurveInBand) -> dict[str, Any]:
    found = asdict(curve)
    return found | {
        "values": [v if v is None or math.isfinite(v) else None for v in curve.values],
        "left": None if curve.left is None else {k: _finite(v) for k, v in asdict(curve.left).items()},
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
