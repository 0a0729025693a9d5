r"""Nothing that a file holds is obeyed by a terminal: `\x1b[2J` in a key, a name or a label is shown as it is
written."""

from __future__ import annotations

import ast
import io
import json
import logging
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from gaekit.cli import main
from gaekit.errors import DataError, Problem, RecipeError
from gaekit.terminal import PrintableFormatter, Terminal, printable, to_json
from gaekit.train.progress import Reporter

HOSTILE = "a\x1b[2J\x07\x9b31m\u202eb\r\x7f\ud800"
SHOWN = "a\\x1b[2J\\x07\\x9b31m\\u202eb\\r\\x7f\\ud800"


def test_what_a_terminal_obeys_is_written_out() -> None:
    assert printable(HOSTILE) == SHOWN
    assert ast.literal_eval(f"'{SHOWN}'") == HOSTILE
    for kept in ("", "plain", "naïve 日本語 \u200d🙂", "two\nlines\tand a tab"):
        assert printable(kept) == kept


def test_nothing_that_rich_prints_is_obeyed() -> None:
    written = io.StringIO()
    console = Terminal(file=written, width=200)
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    console.print(HOSTILE)
    console.print(table)
    with Progress(console=console) as progress:
        progress.add_task(HOSTILE)
    Reporter(console).say(HOSTILE)
    assert written.getvalue().count("a\\x1b[2J") == 6
    assert not set("\x1b\x07\x9b\u202e\r\x7f\ud800") & set(written.getvalue())


def test_neither_markup_nor_codes_of_emojis_are_read() -> None:
    written = io.StringIO()
    console = Terminal(file=written, width=80)
    console.print("[red]a[/red] :smile: [link=http://other.example]b[/link]")
    assert written.getvalue() == "[red]a[/red] :smile: [link=http://other.example]b[/link]\n"


def test_colours_of_our_own_stay() -> None:
    console = Terminal(file=io.StringIO(), width=80)
    (first, *_) = console.render(Text("a\x1b", style="bold red"), console.options)
    assert (first.text, str(first.style)) == ("a\\x1b", "bold red")


def test_json_stays_what_it_says() -> None:
    value = {"na\x1bme": HOSTILE, "list": ["ü\x9b", "\n"]}
    assert json.loads(to_json(value)) == value
    assert "ü" in to_json(value)
    assert not set("\x1b\x07\x9b\u202e\r\x7f\ud800") & set(to_json(value))


def test_warnings_are_written_out() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "skipped: %s", (HOSTILE,), None)
    assert PrintableFormatter().format(record) == f"skipped: {SHOWN}"


def test_a_problem_is_one_line_whatever_its_key_holds() -> None:
    error = RecipeError("x.yaml", [Problem(("a\nerror: all is lost", "b"), "unknown key", 3)])
    assert str(error) == "x.yaml:3: a\\nerror: all is lost.b: unknown key"


def test_the_command_line_shows_a_hostile_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text('"\\e[2J\\u202e": 1\n"b\\e]0;title\\a": "\\e[31m"\nname: "\\e[5m"\n')
    assert main(["check", str(path)]) == 2
    assert main(["--debug", "check", str(path)]) == 2
    told = capsys.readouterr()
    assert "a.yaml:1: \\x1b[2J\\u202e: unknown key" in told.err
    assert "Traceback" in told.err
    assert not set("\x1b\x07\u202e") & set(told.out + told.err)


def test_errors_are_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    from gaekit.cli.output import print_error, print_table, say

    print_error(DataError(f"{HOSTILE}: no"))
    say(HOSTILE)
    print_table(("x",), [(HOSTILE,)])
    told = capsys.readouterr()
    assert told.err == f"error: {SHOWN}: no\n"
    assert told.out.count("\\x1b[2J") == 2
