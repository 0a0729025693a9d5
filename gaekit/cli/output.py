"""Printing for people and for pipes: results to stdout, messages to stderr."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.table import Table
from rich.text import Text

from gaekit.errors import GaekitError, Problem, RecipeError
from gaekit.terminal import Terminal, printable, to_json

WIDE = 10_000
"""Columns where nobody's screen ends: what goes into a pipe or a file is not cut."""


def console(*, stderr: bool = False) -> Terminal:
    """A console on stdout, or on stderr for messages, that colours nothing by itself."""
    stream: IO[str] = sys.stderr if stderr else sys.stdout
    return Terminal(file=stream, width=None if stream.isatty() else WIDE)


def say(text: str | Text, *, stderr: bool = False) -> None:
    """Print a line as it is: no markup, and never wrapped, so that `file:line` stays one word."""
    console(stderr=stderr).print(printable(text) if isinstance(text, str) else text, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    print(to_json(value))


def print_error(error: GaekitError, *, debug: bool = False) -> None:
    """The message of an error on stderr, without the traceback unless `debug`; a recipe's problems keep a line each."""
    if debug:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    if isinstance(error, RecipeError):
        count = len(error.problems)
        say(str(error), stderr=True)
        say(Text(f"{count} problem{'s' if count != 1 else ''}", style="bold red"), stderr=True)
    else:
        say(Text.assemble((_head(error), "bold red"), printable(str(error))), stderr=True)


def _head(error: GaekitError) -> str:
    return "" if error.exit_code in (85, 130) else "error: "  # an interruption is no fault


def print_warnings(source: str, problems: Iterable[Problem]) -> None:
    """Doubts about a recipe, a line each, on stderr."""
    for problem in RecipeError(source, list(problems)).args[0].splitlines():
        say(Text.assemble(("warning: ", "yellow"), printable(problem)), stderr=True)


def make_table(head: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Columns under their names; the last column takes what room is left and wraps."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=index < len(head) - 1)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return table


def print_table(head: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """A table; a pipe gets whole lines."""
    table, screen = make_table(head, rows), console()
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as captured:
        screen.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
