"""The command line. `gaekit --help` imports neither torch nor pydantic: a command imports what it needs when run."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def make_app() -> typer.Typer:
    """All commands. To add one: a function with typer's annotations in a module beside this one, its heavy imports
    inside the function, and a line here."""
    import typer

    from gaekit.cli import (
        assets,
        checkpoints,
        data,
        doctor,
        images,
        inspect,
        interop,
        latents,
        likelihood,
        options,
        recipes,
        run,
        view,
    )

    app = typer.Typer(
        no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.callback()(options.gaekit)
    app.command()(run.run)
    app.command()(inspect.check)
    app.command()(run.plan)
    app.command()(assets.assets)
    app.command()(doctor.doctor)
    app.command()(images.sample)
    app.command()(images.reconstruct)
    app.command()(likelihood.likelihood)
    app.command("import")(interop.import_)
    app.command()(interop.export)
    app.command()(inspect.plugins)
    app.command()(inspect.components)
    app.command()(inspect.schema)
    app.add_typer(data.make_app(), name="data")
    app.add_typer(recipes.make_app(), name="recipes")
    app.add_typer(view.make_store(), name="store")
    app.add_typer(checkpoints.make_app(), name="checkpoints")
    app.add_typer(latents.make_app(), name="latents")
    app.command()(view.pack)
    return app


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

    get_command(make_app()).main(args=arguments, prog_name="gaekit")
