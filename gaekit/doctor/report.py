"""`gaekit doctor`: what is wrong with an installation and a machine before a run finds out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gaekit.doctor import machine, software
from gaekit.doctor.finding import Case, Finding
from gaekit.errors import DataAbsent, GaekitError
from gaekit.pipeline.assets import find_needs
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.sizing.describe import data_facts
from gaekit.stages.data import Data

Check = Callable[[Case], Iterable[Finding]]


def files(case: Case) -> Iterator[Finding]:
    """Whether all files that the recipe needs from outside are there, so that it could run offline."""
    if case.recipe is None:
        return
    needs = {need.asset: need for need in find_needs(case.recipe, case.registry)}
    lacking = [need for asset, need in needs.items() if asset.find() is None]
    for need in lacking:
        yield Finding("files", f"{need.owner} needs {need.asset.what}, {need.asset.place} is absent", need.asset.mend)
    if not lacking:
        yield Finding("files", f"all {len(needs)} from outside are there (`gaekit assets` checks what is in them)")


def data(case: Case) -> Iterator[Finding]:
    """Whether the recipe's data set is there."""
    if case.recipe is None:
        return
    try:
        classes, images, held_out = data_facts(Data(case.recipe, case.registry))
    except DataAbsent as error:
        yield Finding("data", _line(error), "put it there, or give the recipe's dataset another place")
    else:
        yield Finding("data", f"{images} training and {held_out} held-out images, {classes or 'no'} classes")


CHECKS: dict[str, Check] = {
    "packages": software.packages,
    "torch": software.torch_and_driver,
    "plugins": software.plugins,
    "attention": software.attention,
    "teachers": software.teachers,
    "disk": machine.disk,
    "runs folder": machine.runs_folder,
    "shared memory": machine.shared_memory,
    "ports": machine.ports,
    "processes": machine.processes,
    "data": data,
    "files": files,
}
"""By name, in the order of the report."""
SLOW = "processes"
"""Waits for others; the rest goes on meanwhile."""


def examine(recipe: str | None, *, out: Path, overrides: Sequence[str] = ()) -> Iterator[Finding]:
    """What every check finds; one that fails itself is a finding, and stops none of the others."""
    case, faults = open_case(recipe, out, overrides)
    yield from faults
    with ThreadPoolExecutor(1) as background:
        slow = background.submit(run_check, SLOW, case)
        for name in CHECKS:
            yield from slow.result() if name == SLOW else run_check(name, case)


def open_case(recipe: str | None, out: Path, overrides: Sequence[str]) -> tuple[Case, list[Finding]]:
    """The plugins and the recipe, as far as they can be loaded, and why not further."""
    registry, faults, loaded = Registry(), [], None
    try:
        registry = load_plugins()
    except GaekitError as error:
        faults.append(Finding("plugins", _line(error), "name installed plugins in GAEKIT_PLUGINS, or unset it"))
    if recipe is not None and not faults:
        try:
            loaded = load_recipe(recipe, registry, overrides=overrides)
        except GaekitError as error:
            faults.append(Finding("recipe", _line(error), f"gaekit check {recipe} names each mistake"))
    return Case(registry, out, loaded), faults


def run_check(name: str, case: Case) -> list[Finding]:
    """What one check finds, its own failure included."""
    try:
        return list(CHECKS[name](case))
    except GaekitError as error:
        return [Finding(name, _line(error), "mend what this names")]
    except Exception as error:  # a check meets whatever is wrong with a machine
        return [
            Finding(name, f"this check failed: {type(error).__name__}: {_line(error)}", "report this line to gaekit")
        ]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
