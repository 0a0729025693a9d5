"""Reference curves: what several runs of one recipe, which differ in their seed alone, logged and measured.

A reference is a JSON file. Those of shipped recipes come with gaekit and go by the recipe's name; a sweep over seeds
leaves one of each of its settings.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gaekit import __version__
from gaekit.errors import ArtifactError, GaekitError
from gaekit.recipe.suggest import did_you_mean, near
from gaekit.runs.compare.numbers import Number, is_outcome, numbers_of, obstacles
from gaekit.runs.compare.settings import ABSENT, OWN, RUNTIME, Setting, differing, leaves
from gaekit.runs.opened import OpenRun
from gaekit.store.curves import read_curves
from gaekit.store.files import read_json
from gaekit.store.room import FACTS

FOLDER = "curves"
"""Of shipped references, among the recipes."""
SUFFIX = ".json"
MOST_POINTS = 200
"""Of a curve. A longer one is thinned to the means of as many stretches."""
DIGITS = 6
DEEPEST, LAST_STEP, LARGEST = 100, 10**15, 1e100
"""What is believed of a file: its levels, steps and values."""
SEED, EVALUATE = "seed", "evaluate"
SHOWN, NO_RESULT = ("loss/", "probe/"), "probe/seconds"
"""How the names of curves begin that are compared, and the one of these that is a time."""


class Model(BaseModel):
    """A part of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NumberRuns(Model):
    """A number of each run, None where one lacks it; `interval` is the hull of the runs' own; `protocol` is theirs, but
    for what each found."""

    values: list[float | None]
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = Field(default_factory=dict)


class CurveRuns(Model):
    """A curve of each run: at a step, the mean of what was logged after the step before it; None where it is not
    finite."""

    steps: list[int]
    runs: list[list[float | None]]


class Reference(Model):
    """`settings`: the resolved recipe, but for its seed and runtime. `length`: by stage, the steps of its training.
    `revisions`: those of the stages and components that made it, "stage:evaluate" and "metric:psnr" for two."""

    reference: Literal[1] = 1
    recipe: str
    settings: dict[str, Any]
    seeds: list[int]
    log_every: int | None = None
    gaekit: str
    torch: str = ""
    device: str = ""
    numbers: dict[str, NumberRuns]
    curves: dict[str, dict[str, CurveRuns]]
    length: dict[str, int]
    revisions: dict[str, int] = Field(default_factory=dict)

    @property
    def about(self) -> str:
        """Of what it is, in a line."""
        seeds = ", ".join(map(str, self.seeds))
        made = ", ".join(part for part in (f"gaekit {self.gaekit}", self.torch and f"torch {self.torch}") if part)
        return f"{len(self.seeds)} runs of {self.recipe} (seeds {seeds}; {made})"


def make_reference(runs: Sequence[OpenRun], recipe: str) -> Reference:
    """That of finished runs of `recipe`. Raises GaekitError for fewer than two runs, for runs that are not finished, or
    that differ in more than their seed, runtime and name."""
    if len(runs) < 2:
        raise GaekitError(
            f"a reference takes two runs or more, and was given {len(runs)}; a band is about their spread"
        )
    if unfinished := [str(run.path) for run in runs if run.state != "done"]:
        raise GaekitError(f"a reference takes finished runs; not finished: {', '.join(unfinished)}")
    recipes = [run.settings for run in runs]
    if settings := differing([_decisive(recipe) for recipe in recipes]):
        raise GaekitError(f"a reference takes runs that differ in their seed alone; they differ in {_keys(settings)}")
    seeds = [int(recipe[SEED]) for recipe in recipes]
    if len(set(seeds)) < len(seeds):
        raise GaekitError(f"a reference takes runs of different seeds, and was given {', '.join(map(str, seeds))}")
    revisions = [revisions_of(run) for run in runs]
    for other in revisions[1:]:
        if changed := revision_differences(revisions[0], other):
            raise GaekitError(f"a reference takes runs of one gaekit; of other revisions are {', '.join(changed)}")
    packages = runs[0].record.get("packages", {})
    return Reference(
        recipe=recipe,
        settings=_decisive(recipes[0]),
        seeds=seeds,
        log_every=recipes[0].get(RUNTIME, {}).get("log_every"),
        gaekit=__version__,
        torch=packages.get("torch", "").partition("+")[0],
        device=runs[0].record.get("device", ""),
        numbers=dict(_numbers(runs)),
        curves=_curves(runs),
        length={name: s.record["steps"] for name, s in runs[0].stages.items() if "steps" in s.record},
        revisions=revisions[0],
    )


def revisions_of(run: OpenRun) -> dict[str, int]:
    """Those of the stages of a run and of their components, as far as its rooms are there to say so."""
    found: dict[str, int] = {}
    for stage, state in run.stages.items():
        file = state.room.path / FACTS if state.room is not None else None
        if file is not None and file.is_file():
            facts = read_json(file)
            components = facts.get("components", {}).items()
            found |= {":".join(key.split(":")[:2]): own["revision"] for key, own in components}
            found[f"stage:{stage}"] = facts["revision"]
    return dict(sorted(found.items()))


def revision_differences(one: Mapping[str, int], other: Mapping[str, int]) -> list[str]:
    """What both have and is of another revision: "metric:psnr (1 and 2)"."""
    return [f"{key} ({own} and {other[key]})" for key, own in one.items() if other.get(key, own) != own]


def find_reference(source: str) -> tuple[str, Reference]:
    """(what it is called, the reference): a file, or that of a shipped recipe by its name. Raises GaekitError where
    there is neither, ArtifactError for a file that is none."""
    path, shipped = Path(source), shipped_references()
    if source in shipped:
        path = shipped[source]
    elif not path.is_file():
        known = ", ".join(shipped) or "none"
        raise GaekitError(
            f"there are no reference curves '{source}'{did_you_mean(near(source, shipped))}; shipped: {known}; "
            "those of a sweep over seeds are files in its folder, runs/NAME.sweep/curves"
        )
    return (source if source in shipped else path.stem), read_reference(path)


def shipped_references() -> dict[str, Path]:
    """Those that come with gaekit, by name."""
    root = Path(str(files("gaekit.recipes"))) / FOLDER
    return {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob(f"*{SUFFIX}"))}


def read_reference(path: Path) -> Reference:
    """A file. Raises ArtifactError, with what is wrong, for one that is no reference."""
    try:
        reference = Reference.model_validate(read_json(path, deepest=DEEPEST))
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        raise ArtifactError(f"{path}: no reference curves: {place or 'it'}: {wrong['msg']}") from error
    except (OSError, ArtifactError) as error:
        raise ArtifactError(f"{path}: reference curves that cannot be read: {error}") from error
    if fault := next(_faults(reference), None):
        raise ArtifactError(f"{path}: no reference curves: {fault}")
    return reference


def _faults(reference: Reference) -> Iterator[str]:
    """What a band cannot be made of: other runs than there are seeds, curves without a step, numbers beyond all."""
    count = len(reference.seeds)
    if count < 2:
        yield f"seeds: {count}; a band is about the spread of two runs or more"
    for name, number in reference.numbers.items():
        if len(number.values) != count:
            yield f"numbers.{name}: has {len(number.values)} values of {count} runs"
        if not all(map(_is_usable, [*number.values, *(number.interval or ())])):
            yield f"numbers.{name}: holds no number that a band can be made of"
    for stage, curves in reference.curves.items():
        for name, curve in curves.items():
            if len(curve.runs) != count or any(len(run) != len(curve.steps) for run in curve.runs):
                yield f"curves.{stage}.{name}: is not of {count} runs with a value at each of its steps"
            if not curve.steps or any(b <= a for a, b in itertools.pairwise([0, *curve.steps, LAST_STEP])):
                yield f"curves.{stage}.{name}: its steps do not rise from 1 on"
            if not all(map(_is_usable, itertools.chain.from_iterable(curve.runs))):
                yield f"curves.{stage}.{name}: holds no number that a band can be made of"


def _is_usable(value: float | None) -> bool:
    """Whether squares of it can be summed."""
    return value is None or abs(value) <= LARGEST


def as_text(reference: Reference) -> str:
    """The file: a line a number and a curve, which `git diff` can tell apart."""
    whole = reference.model_dump(mode="json")
    numbers, curves = whole.pop("numbers"), whole.pop("curves")
    head = [f'"{key}": {_line(value)}' for key, value in whole.items()]
    stages = [f"{_line(stage)}: {_block(found, 2)}" for stage, found in curves.items()]
    parts = [*head, f'"numbers": {_block(numbers, 1)}', '"curves": {\n  ' + ",\n  ".join(stages) + "\n }"]
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _block(found: Mapping[str, Any], depth: int) -> str:
    indent = "\n" + " " * (depth + 1)
    lines = [f"{_line(name)}: {_line(value)}" for name, value in found.items()]
    return "{" + indent + f",{indent}".join(lines) + "\n" + " " * depth + "}" if lines else "{}"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def recipe_differences(reference: Reference, recipe: Mapping[str, Any]) -> tuple[list[Setting], list[Setting]]:
    """(settings that decide results and are not the reference's, those that one of the two does not know).

    A recipe that another version of gaekit resolved lacks keys that came later, or has some that went: they stand in a
    section that both have. Which numbers are taken decides no other result, so `evaluate` is left out; each number has
    its protocol.
    """
    found = differing([_judged(reference.settings), _judged(_decisive(recipe))])
    sections = [_sections(reference.settings), _sections(recipe)]
    unknown = [s for s in found if ABSENT in s.values and all(_parent(s.key) in known for known in sections)]
    return [setting for setting in found if setting not in unknown], unknown


def _sections(recipe: Mapping[str, Any]) -> set[str]:
    """The dotted keys that hold others."""
    found = {""}
    for key, _ in leaves(dict(recipe)):
        while key := _parent(key):
            found.add(key)
    return found


def _parent(key: str) -> str:
    return key.rpartition(".")[0]


def _decisive(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in (*OWN, RUNTIME, SEED)}


def _judged(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != EVALUATE}


def _keys(settings: Sequence[Setting]) -> str:
    shown = [f"{s.key} ({' and '.join(s.texts)})" for s in settings[:5]]
    return ", ".join(shown) + (f" and {len(settings) - 5} more" if len(settings) > 5 else "")


def _numbers(runs: Sequence[OpenRun]) -> Iterator[tuple[str, NumberRuns]]:
    found = [numbers_of(run.metrics, run.path) for run in runs]
    for name in dict.fromkeys(name for one in found for name in one):
        own = [one.get(name) for one in found]
        there = [number for number in own if number is not None]
        for number in there[1:]:
            if why := obstacles(there[0].protocol, number.protocol):
                raise GaekitError(f"a reference takes numbers of one protocol; {name} differs in {'; '.join(why)}")
        yield (
            name,
            NumberRuns(
                values=[None if number is None else number.value for number in own],
                interval=_hull(there),
                protocol={key: value for key, value in there[0].protocol.items() if not is_outcome(key)},
            ),
        )


def _hull(numbers: Sequence[Number]) -> tuple[float, float] | None:
    known = [number.interval for number in numbers if number.interval]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _curves(runs: Sequence[OpenRun]) -> dict[str, dict[str, CurveRuns]]:
    """By stage and name, the curves that all runs have."""
    of_runs = [curves_of(run) for run in runs]
    found: dict[str, dict[str, CurveRuns]] = {}
    for stage, first in of_runs[0].items():
        for name in first:
            own = [one.get(stage, {}).get(name) for one in of_runs]
            there = [points for points in own if points is not None]
            if len(there) == len(runs):
                found.setdefault(stage, {})[name] = _thinned(there)
    return found


def curves_of(run: OpenRun) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By stage and name, the curves of a run that are compared."""
    found = {}
    for stage, state in run.stages.items():
        if state.room is not None:
            scalars = read_curves(state.room.curves, state.record.get("steps")).scalars
            found[stage] = {name: points for name, points in scalars.items() if _is_compared(name)}
    return {stage: curves for stage, curves in found.items() if curves}


def _is_compared(name: str) -> bool:
    return name.startswith(SHOWN) and name != NO_RESULT


def _thinned(curves: Sequence[list[tuple[int, float]]]) -> CurveRuns:
    logged = sorted(set.intersection(*({step for step, _ in points} for points in curves)))
    count = min(len(logged), MOST_POINTS)
    steps = [logged[(place + 1) * len(logged) // count - 1] for place in range(count)]
    runs = [[_rounded(value) for value in means_between(points, steps)] for points in curves]
    return CurveRuns(steps=steps, runs=runs)


def means_between(points: Sequence[tuple[int, float]], steps: Sequence[int]) -> list[float | None]:
    """At each of the steps, the mean of a curve's values after the step before it; None where there are none, or the
    curve ends earlier; nan where one is not finite."""
    found: list[float | None] = []
    before = 0
    for step in steps:
        values = [value for logged, value in points if before < logged <= step]
        is_whole = bool(points) and points[-1][0] >= step
        found.append(math.fsum(values) / len(values) if values and is_whole else None)
        before = step
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
