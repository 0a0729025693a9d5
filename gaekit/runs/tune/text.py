"""A search's result in words."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from gaekit.runs.compare.numbers import Number, change
from gaekit.runs.tune.space import Choice
from gaekit.store.files import human_duration

Result = Mapping[str, Any]


def lines_of(found: Result, command: list[str], width: int = 80) -> Iterator[str]:
    """The result, line by line; `command` is what made the run, to which the best settings are added."""
    yield from _heads(found, width)
    yield ""
    yield from _table(found)
    for entry in found["best"]:
        yield ""
        yield from _entry(found, entry, command)
    yield ""
    yield from textwrap.wrap(about(found), width)
    yield from textwrap.wrap(cost_text(found), width)


def about(found: Result) -> str:
    """Which numbers are to be reported, and why."""
    tuned, reported = found["tuned_on"], found["reported_on"]
    is_alike = tuned["images"] == reported["images"]
    unlike = "" if is_alike else " The two are of unlike numbers of images, by which Fréchet distances differ too."
    return (
        f"The number to report is the one made anew, of {reported['images']:,} images of seed {reported['seed']}, "
        f"which nothing was tuned on. By {tuned['images']:,} images of seed {tuned['seed']} the best of "
        f"{found['evaluations']} evaluations was chosen, which flatters it.{unlike}"
    )


def cost_text(found: Result) -> str:
    """What the search took, in a sentence."""
    cost = found["cost"]
    return (
        f"Cost: {cost['evaluations']:,} evaluations (those made anew included), {cost['images']:,} images, "
        f"{cost['network_evaluations']:,} evaluations of a denoiser, {human_duration(cost['seconds'])}."
    )


def gain_text(found: Result, entry: Mapping[str, Any], name: str) -> str:
    """How a number made anew differs from that of the recipe's own settings."""
    own, best = (_number(one["reported"][name]) for one in (found["own"], entry))
    told = change(own, best)
    if told.interval is None or told.difference is None:
        return "" if told.difference is None else f"{told.difference:+.4g} from the recipe's"
    low, high = told.interval
    verdict = "no difference from the recipe's shown" if told.verdict == "no difference shown" else (
        "the same as the recipe's" if told.verdict == "the same" else f"{told.verdict} than the recipe's"
    )  # fmt: skip
    return f"{verdict} ({told.difference:+.4g}; 95 % {low:+.4g} to {high:+.4g})"


def _number(entry: Mapping[str, Any]) -> Number:
    interval = entry.get("interval")
    return Number(entry["value"], tuple(interval) if interval else None, entry.get("protocol", {}))


def reported_text(entry: Mapping[str, Any]) -> str:
    """A number with its interval."""
    interval = entry.get("interval")
    return f"{entry['value']:.5g}" + (f" [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else "")


def label_of(found: Result, entry: Mapping[str, Any]) -> str:
    """What a row of the result is called."""
    if entry is found["own"]:
        return "the recipe's own"
    return "best" if len(found["best"]) == 1 else f"front, evaluation {entry['trial'] + 1}"


def recipe_text(entry: Mapping[str, Any]) -> str:
    """The settings as they stand in a recipe."""
    settings = entry["settings"]
    lines = ["sample:", "  guidance: {{scale: {scale:.12g}, start: {start:.12g}, end: {end:.12g}}}".format(**settings)]
    if settings["shift"] is not None:
        lines.insert(1, f"  sampler: {{..., shift: {settings['shift']:.12g}}}")
    return "\n".join(lines)


def command_text(entry: Mapping[str, Any], command: list[str]) -> str:
    """The command that made the run, with these settings."""
    return shlex.join([*command, *Choice(**entry["settings"]).options])


def _heads(found: Result, width: int) -> Iterator[str]:
    names = " and ".join(f"{one['name']} ({one['better']} is better)" for one in found["metrics"])
    front = "" if len(found["metrics"]) == 1 else f"; {_settings(len(found['front']))} on the Pareto front"
    yield from textwrap.wrap(f"{found['run']}: {names}, {found['evaluations']} evaluations{front}", width)


def _settings(count: int) -> str:
    return "1 setting" if count == 1 else f"{count} settings"


def _table(found: Result) -> Iterator[str]:
    tuned, reported = found["tuned_on"]["seed"], found["reported_on"]["seed"]
    for one in found["metrics"]:
        name = one["name"]
        rows = [
            (label_of(found, entry), f"{entry['tuned'][name]:.5g}", reported_text(entry["reported"][name]))
            for entry in (found["own"], *found["best"])
        ]
        first = max(len(row[0]) for row in rows)
        yield name
        yield f"  {'':<{first}}  {f'tuned on seed {tuned}':<16}  anew on seed {reported}, with its 95 % interval"
        yield from (f"  {label:<{first}}  {value:<16}  {anew}" for label, value, anew in rows)


def _entry(found: Result, entry: Mapping[str, Any], command: list[str]) -> Iterator[str]:
    yield f"{label_of(found, entry)}: {Choice(**entry['settings'])}"
    for one in found["metrics"]:
        if gain := gain_text(found, entry, one["name"]):
            yield f"  {one['name']}: {gain}"
    yield f"  {command_text(entry, command)}"
