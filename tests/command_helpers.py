"""Commands as a person types them, run in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from gaekit.cli import main


@dataclass
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


def gaekit(folder: Path, *arguments: str, code: int = 0) -> Done:
    """A command with `folder` as the current one, that ends with `code`."""
    with contextlib.chdir(folder), io.StringIO() as out, io.StringIO() as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            returned = main(arguments)
        done = Done(out.getvalue(), err.getvalue())
    assert returned == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done
