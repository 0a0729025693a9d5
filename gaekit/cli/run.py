"""`gaekit run` and `gaekit plan`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaekit.cli.options import JsonOption, RecipeArgument, SetOption, complete_stage
from gaekit.cli.sweep import JOBS_HELP, sweep_recipe

if TYPE_CHECKING:
    from gaekit.plugins import Registry
    from gaekit.recipe.schema import Recipe

OUT = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of all runs.")]
REDO_HELP = (
    "Run this stage, and all that is made from it, again from the beginning: cached, stopped or diverged. What was "
    "there stays for the runs that refer to it; `gaekit store gc` removes it when none does."
)
FRESH_HELP = (
    "As --redo, and discard the stage's checkpoints and what it had not finished, unless another run needs them."
)
SWEEP_HELP = (
    "Try values of a setting: diffusion.train.lr=1e-4,3e-4. Repeatable: every combination is run, over the seeds of "
    "seed=0,1,2, and a table set beside each other, as by `gaekit sweep`."
)
TRY_HELP = (
    "Two steps a training and a few images, from end to end in about a minute, to see before a long run that all works "
    "and fits into memory. In a folder of its own, OUT/try/NAME; no other run takes anything from it."
)
NAME = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the run instead of the recipe's.")]


def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    name: NAME = None,
    try_: Annotated[bool, typer.Option("--try", help=TRY_HELP)] = False,
    out: OUT = Path("runs"),
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.", autocompletion=complete_stage)
    ] = None,
    redo: Annotated[str | None, typer.Option(metavar="STAGE", help=REDO_HELP, autocompletion=complete_stage)] = None,
    fresh: Annotated[str | None, typer.Option(metavar="STAGE", help=FRESH_HELP, autocompletion=complete_stage)] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Refuse (exit 2) where another run is making what this one needs.")
    ] = False,
    nproc: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes on this machine, one a GPU, started by torchrun.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch nothing: check first that all files are here (`gaekit assets`).")
    ] = False,
    swept: Annotated[list[str] | None, typer.Option("--sweep", metavar="KEY=A,B,C", help=SWEEP_HELP)] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help=f"With --sweep: {JOBS_HELP}")
    ] = None,
) -> None:
    """Run a recipe: every stage that is not done yet, in order. The same command goes on after a stop.

    What another run is making of the same settings is waited for, and then found as cached.
    """
    from gaekit.cli.launch import relaunch
    from gaekit.errors import GaekitError
    from gaekit.plugins import load_plugins
    from gaekit.recipe.load import check_recipe
    from gaekit.sizing.build import build_problems

    registry = load_plugins()
    if swept:
        _refuse_with_sweep(until=until, redo=redo, fresh=fresh, no_wait=no_wait, **{"try": try_})
        sweep_recipe(recipe, swept, registry, set_ or (), name, out, jobs=jobs or 1, nproc=nproc, offline=offline)
        return
    if jobs:
        raise GaekitError("--jobs is for --sweep, which makes several runs; one run shares its work by --nproc")
    checked = check_recipe(recipe, registry, overrides=set_ or (), name=name)
    checked.refuse(build_problems(checked.recipe, registry))
    if nproc is not None:
        relaunch(nproc)  # the recipe's faults have been told by now, once
    from gaekit.pipeline.run import run_recipe
    from gaekit.runs.report import end_with_report

    if try_:
        _refuse_with_try(redo=redo, fresh=fresh)
        more = _try_overrides(checked.recipe)
        tried = check_recipe(recipe, registry, overrides=[*(set_ or ()), *more], name=name).recipe
        _run_try(tried, registry, out, until=until, offline=offline, wait=not no_wait)
        return
    view = run_recipe(
        checked.recipe, registry, out=out, until=until, redo=redo, fresh=fresh, offline=offline, wait=not no_wait
    )
    end_with_report(view, checked.recipe, registry)


def _try_overrides(recipe: Recipe) -> list[str]:
    """What `--try` changes of a recipe on this machine."""
    from gaekit.pipeline.tryout import try_overrides
    from gaekit.stages.machine import choose_device

    on_cpu = choose_device(recipe.runtime.device).type == "cpu"
    return try_overrides(recipe, processes=int(os.environ.get("WORLD_SIZE", "1")), on_cpu=on_cpu)


def _run_try(recipe: Recipe, registry: Registry, out: Path, *, until: str | None, offline: bool, wait: bool) -> None:
    """Run what `--try` made of a recipe, apart from other runs, and say so in a line."""
    from gaekit.cli.output import say
    from gaekit.pipeline import tryout
    from gaekit.pipeline.run import run_recipe
    from gaekit.pipeline.view import TRIALS
    from gaekit.runs.report import end_with_report

    out, first = out / TRIALS, os.environ.get("RANK", "0") == "0"
    if first:
        say(tryout.line_of(recipe, out), stderr=True)
    view = run_recipe(recipe, registry, out=out, until=until, offline=offline, wait=wait, few=tryout.IMAGES)
    end_with_report(view, recipe, registry)
    if first and (line := tryout.memory_line(view)):
        say(line, stderr=True)


def _refuse_with_try(**given: str | None) -> None:
    from gaekit.errors import GaekitError

    if wrong := [f"--{option}" for option, value in given.items() if value is not None]:
        raise GaekitError(f"--try begins from nothing each time; leave {' and '.join(wrong)} out")


def _refuse_with_sweep(**options: object) -> None:
    """Raises GaekitError for the first option that says nothing about a sweep."""
    from gaekit.errors import GaekitError

    for name, value in options.items():
        if value:
            raise GaekitError(f"--{name.replace('_', '-')} is about one run, --sweep makes many; leave one of them out")


def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    name: NAME = None,
    out: OUT = Path("runs"),
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Plan up to this stage.", autocompletion=complete_stage)
    ] = None,
    facts: Annotated[bool, typer.Option("--facts", help="Show all that each fingerprint is made of.")] = False,
    nproc: Annotated[int, typer.Option(min=1, metavar="N", help="Processes to plan for, over all machines.")] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few steps of each training here, and tell their time and memory.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what `run` would do: stages, networks, memory, disk. Works without the data."""
    from gaekit.cli.output import print_json
    from gaekit.cli.planning import Planned, plan_as_data, show_plan
    from gaekit.plugins import load_plugins
    from gaekit.recipe.load import check_recipe
    from gaekit.sizing.build import build_problems

    registry = load_plugins()
    checked = check_recipe(recipe, registry, overrides=set_ or (), name=name)
    checked.refuse(build_problems(checked.recipe, registry))
    planned = Planned.of(checked.recipe, registry, out, until, nproc)
    if as_json:
        print_json(plan_as_data(planned, facts=facts, measure=measure))
    else:
        show_plan(planned, facts=facts, measure=measure)
