"""The command line. `gaekit --help` imports neither torch nor pydantic: a command imports what it needs when run."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

    from gaekit.waiting import Counter


# The panels of `gaekit --help`, in this order. A command stands in the panel under which `_fill` adds it:
#   make        write and run recipes          look        see what a run made and what it cost
#   use         put a finished run to work     extend      what plugins offer
#   look after  data, disk, machine
# What the list says of a command is the first sentence of its docstring, or the help of its group; at most 64
# characters, so that it is one line of 80 columns.
MAKE, LOOK, USE, EXTEND, LOOK_AFTER = "Make", "Look", "Use", "Extend", "Look after"


def make_app() -> typer.Typer:
    """All commands. To add one: a function with typer's annotations in a module beside this one, its heavy imports
    inside the function, and a line in `_fill`."""
    import typer

    from gaekit.cli import options

    app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(options.gaekit)
    _fill(app)
    return app


def _fill(app: typer.Typer) -> None:
    """Add every command to its panel; within one they are listed in this order, groups after the others."""
    from gaekit.cli import (
        assets,
        bill,
        cards,
        checkpoints,
        compare,
        data,
        demo,
        doctor,
        evaluate,
        images,
        inspect,
        interop,
        latents,
        likelihood,
        recipes,
        report,
        run,
        runs,
        sweep,
        tune,
        view,
    )

    _add(app, MAKE, run.run, sweep.sweep, inspect.check, run.plan)
    _add(app, LOOK, runs.runs)
    _add(app, LOOK, report.report, compare.compare, bill.bill, likelihood.likelihood)
    _add(app, LOOK, evaluate.evaluate, cards.report_card, cards.arena)
    _add(app, USE, images.sample, images.reconstruct, tune.tune_guidance)
    _add(app, USE, demo.demo, view.pack, interop.export)
    _add(app, USE, interop.import_, name="import")
    _add(app, EXTEND, inspect.plugins, inspect.components, inspect.schema)
    _add(app, LOOK_AFTER, doctor.doctor, assets.assets)
    app.add_typer(recipes.make_app(), name="recipes", rich_help_panel=MAKE)
    app.add_typer(data.make_app(), name="data", rich_help_panel=LOOK_AFTER)
    app.add_typer(latents.make_app(), name="latents", rich_help_panel=LOOK_AFTER)
    app.add_typer(checkpoints.make_app(), name="checkpoints", rich_help_panel=LOOK_AFTER)
    app.add_typer(view.make_store(), name="store", rich_help_panel=LOOK_AFTER)


def _add(app: typer.Typer, panel: str, *commands: Callable[..., None], name: str | None = None) -> None:
    for command in commands:
        app.command(name, short_help=first_sentence(command.__doc__ or ""), rich_help_panel=panel)(command)


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    return re.split(r"(?<=[^.]\.)\s", " ".join(text.split()), maxsplit=1)[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: what a person can mend is a message, everything else a traceback,
    unless it is the fault of somebody else's plugin.

    `arguments` are those of the process by default. `--debug`, anywhere, shows the traceback of the former too.
    """
    from gaekit.cli.launch import LOST_PEER, communication_failure, end_rank, in_process_group, leave_code
    from gaekit.terminal import PrintableFormatter, printable

    if logging.lastResort is not None:  # what shows warnings where nobody configured anything else
        logging.lastResort.setFormatter(PrintableFormatter())
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _main(given)
    except BaseException as error:
        failure = communication_failure(error)
        if failure is None and (told := _plugin_fault(error)) is not None:
            print(f"error: {told}", file=sys.stderr)
            if "--debug" in given:
                traceback.print_exc()
            leave_code(2)
            return end_rank(2)
        if failure is None:
            leave_code(1)
            if in_process_group():  # where the interpreter's own end would wait for the other ranks
                traceback.print_exc()
                end_rank(1)
            raise
        text, lost = failure
        print(printable(f"error: {text}"), file=sys.stderr)
        if "--debug" in given:
            traceback.print_exc()
        if not lost:  # a rank that lost another leaves it to that one to tell how the run ended
            leave_code(LOST_PEER)
        return end_rank(LOST_PEER)
    leave_code(code)
    return end_rank(code)


def _main(given: list[str]) -> int:
    debug = "--debug" in given
    from gaekit.errors import GaekitError, ReportedByRank0

    try:
        _run([argument for argument in given if argument != "--debug"])
    except ReportedByRank0 as error:
        return error.exit_code
    except GaekitError as error:
        from gaekit.cli.output import print_error

        print_error(error, debug=debug)
        return error.exit_code
    except OSError as error:
        code = unusable(error)
        if debug or code is None:
            raise
        from gaekit.terminal import printable

        text = f"error: {error.filename}: {error.strerror} (`--debug` shows who wanted it)"
        print(printable(text), file=sys.stderr)
        return code
    except RuntimeError as error:
        from gaekit.cli.output import print_error
        from gaekit.data.decoding import dead_worker

        died = dead_worker(error)
        if died is None:
            raise
        print_error(died, debug=debug)
        return died.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on", file=sys.stderr)
        return 130
    except SystemExit as end:  # how typer ends, after a usage error too
        return end.code if isinstance(end.code, int) else 1
    return 0


def _plugin_fault(error: BaseException) -> str | None:
    from gaekit.cli.faults import plugin_fault

    return plugin_fault(error)


def unusable(error: OSError) -> int | None:
    """The exit code where the error speaks of a path that cannot be used as asked, or of a full disk; else None."""
    import errno

    if error.filename is None:
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return 4
    wrong = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
    return 2 if error.errno in wrong else None


def _run(arguments: list[str]) -> None:
    from typer.main import get_command

    from gaekit.waiting import showing

    with showing(_bar):
        get_command(make_app()).main(args=arguments, prog_name="gaekit")


def _bar(title: str, total: int, unit: str) -> AbstractContextManager[Counter]:
    """A bar on stderr for what takes more than a moment."""
    from gaekit.train.progress import Reporter

    return Reporter().slow_bar(title, total, unit)
