"""`gaekit sweep`, and `gaekit run R --sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from gaekit.cli.options import JsonOption, SetOption

if TYPE_CHECKING:
    from gaekit.errors import GaekitError
    from gaekit.plugins import Registry
    from gaekit.sweeps.definition import Definition
    from gaekit.sweeps.folder import SweepFolder
    from gaekit.sweeps.members import Sweep
    from gaekit.sweeps.table import Table


class Part(NamedTuple):
    """Of a sweep, the settings and the seeds to run; of neither, all."""

    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


ALL = Part()
COLUMNS = 80
"""Of a table in a pipe or a file."""
ONLY_HELP = "Run this setting alone, or several; the table holds all that is finished."
SEED_HELP = "Run this seed alone, or several; the table holds all that is finished."
JOBS_HELP = "Runs at a time, a process each; where there are several GPUs, in turn on each."


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="The sweep's YAML file, or a shipped sweep's name.")],
    set_: SetOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = Path("runs"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help=JOBS_HELP)] = 1,
    nproc: Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes of each run, one a GPU.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="SETTING", help=ONLY_HELP)] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", metavar="SEED", help=SEED_HELP)] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only check it, and say how often each stage is made.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Only make the table anew of what is finished.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe in many settings and over seeds, into one table.

    What several runs need is trained once. The same command goes on after a stop, and may be started on several
    machines of one disk.
    """
    from gaekit.plugins import load_plugins
    from gaekit.sweeps.definition import read_sweep

    registry = load_plugins()
    definition = read_sweep(file, registry, set_ or ())
    part = Part(tuple(only or ()), tuple(seed or ()))
    make(
        definition,
        registry,
        out,
        jobs=jobs,
        nproc=nproc,
        offline=offline,
        plan=plan,
        table=table,
        as_json=as_json,
        part=part,
    )


def sweep_recipe(
    recipe: str,
    swept: Sequence[str],
    registry: Registry,
    changes: Sequence[str],
    name: str | None,
    out: Path,
    *,
    jobs: int,
    nproc: int | None,
    offline: bool,
) -> None:
    """`gaekit run RECIPE --sweep ...`: as `gaekit sweep` of the file that these options stand for."""
    from gaekit.sweeps.definition import sweep_of_options

    definition = sweep_of_options(recipe, swept, registry, changes, name)
    make(definition, registry, out, jobs=jobs, nproc=nproc, offline=offline)


def make(
    definition: Definition,
    registry: Registry,
    out: Path,
    *,
    jobs: int = 1,
    nproc: int | None = None,
    offline: bool = False,
    plan: bool = False,
    table: bool = False,
    as_json: bool = False,
    part: Part = ALL,
) -> None:
    """Check a sweep; plan it, make its table, or run it and make its table."""
    from gaekit.cli.output import print_warnings
    from gaekit.errors import GaekitError
    from gaekit.sweeps.folder import SweepFolder
    from gaekit.sweeps.members import check_members

    if plan and table:
        raise GaekitError("--plan and --table: give one of the two")
    sweep = check_members(definition, registry, build=not table)
    asked = sweep.part(*part)
    folder = SweepFolder.of(sweep.name, out)
    if not table:
        print_warnings(definition.recipe, sweep.warnings)
    if plan:
        _show_plan(asked, registry, out, nproc or 1, as_json=as_json)
        return
    failed = None if table else _run(asked, folder, registry, out, jobs, nproc, offline=offline)
    _show_table(sweep, folder, registry, out, as_json=as_json)
    if failed is not None:
        raise failed


def _run(
    sweep: Sweep, folder: SweepFolder, registry: Registry, out: Path, jobs: int, nproc: int | None, *, offline: bool
) -> GaekitError | None:
    """Make the runs. -> the error with which some of them failed, or that ended all; what is there has a table."""
    from gaekit.errors import GaekitError
    from gaekit.parallel import launched
    from gaekit.sweeps.process import MEMBER, Starter, visible_gpus
    from gaekit.sweeps.run import MembersFailed, SweepRunner
    from gaekit.sweeps.there import Planned
    from gaekit.train.progress import Reporter

    if launched():
        raise GaekitError("a sweep starts the processes of its runs itself: give --nproc and leave torchrun out")
    planned = Planned(sweep, out, registry, processes=nproc or 1, need_data=True)
    folder.describe(sweep.definition)
    options = ["--out", str(out), *(["--nproc", str(nproc)] if nproc else []), *(["--offline"] if offline else [])]
    starter = Starter(MEMBER, options, jobs, nproc or 1, visible_gpus())
    try:
        SweepRunner(planned, folder, starter, Reporter()).run()
    except MembersFailed as failed:
        return failed
    return None


def _show_plan(sweep: Sweep, registry: Registry, out: Path, processes: int, *, as_json: bool) -> None:
    from gaekit.cli.output import print_json, print_table, say
    from gaekit.sweeps.labels import counted
    from gaekit.sweeps.there import Planned, shares

    planned = Planned(sweep, out, registry, processes=processes)
    members = [
        (m.run, "finished" if planned.is_finished(m) else f"from {stage.name}" if (stage := planned.missing(m)) else "")
        for m in sweep.members
    ]
    if as_json:
        stages = [
            {"stage": s.stage, "results": s.rooms, "there": s.there, "runs": list(s.runs)} for s in shares(planned)
        ]
        runs = [{"run": run, "state": state} for run, state in members]
        print_json({"sweep": sweep.name, "recipe": sweep.definition.recipe, "runs": runs, "stages": stages})
        return
    settings, seeds = len(sweep.definition.settings), len(sweep.definition.seeds)
    made_of = f"{counted(settings, 'setting')} x {counted(seeds, 'seed')}"
    say(f"{sweep.name}: {counted(len(members), 'run')} of {sweep.definition.recipe}, {made_of}")
    rows = [(s.stage, str(s.rooms), str(s.there), "-".join(map(str, dict.fromkeys(s.runs)))) for s in shares(planned)]
    print_table(("stage", "results", "there already", "runs that share one"), rows)
    say("")
    print_table(("run", "state"), members)


def _page(table: Table, folder: SweepFolder, out: Path) -> list[Path]:
    """The page, where it can be made; else a line tells what it needs."""
    from gaekit.cli.output import say
    from gaekit.errors import GaekitError
    from gaekit.runs.page import require_extra
    from gaekit.sweeps.page import write_page

    try:
        require_extra()
    except GaekitError as error:
        say(f"no page: {error}", stderr=True)
        return []
    return [write_page(table, folder.path, out)]


def _show_table(sweep: Sweep, folder: SweepFolder, registry: Registry, out: Path, *, as_json: bool) -> None:
    from gaekit.cli.output import console, print_json, print_table, say
    from gaekit.sweeps.folder import CURVES
    from gaekit.sweeps.table import INTERVAL, blocks, collect
    from gaekit.sweeps.writing import as_data, describe, write_references, write_results

    table = collect(sweep, out, registry)
    files = [*write_results(table, folder.path), *_page(table, folder, out)]
    references, reasons = write_references(table, folder.path, out)
    for reason in reasons:
        say(reason, stderr=True)
    if as_json:
        print_json(as_data(table))
        return
    say(describe(table))
    screen = console()
    for head, rows in blocks(table, screen.width if screen.is_terminal else COLUMNS):
        say("")
        print_table(head, rows)
    say(f"\n{INTERVAL}")
    names = [*(file.name for file in files), *([f"{CURVES}/ ({len(references)})"] if references else [])]
    say(f"written to {folder.path}: {', '.join(names)}")
