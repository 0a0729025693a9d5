"""Errors say where, and end a command with their own exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gaekit import cli, errors
from gaekit.errors import GaekitError, Problem, RecipeError


@pytest.mark.parametrize(
    ("path", "dotted"),
    [
        ((), ""),
        (("name",), "name"),
        (("autoencoder", "train", "steps"), "autoencoder.train.steps"),
        (("evaluate", "metrics", 1, "use"), "evaluate.metrics[1].use"),
        (("a", 0, 2), "a[0][2]"),
    ],
)
def test_a_path_reads_as_a_person_writes_it(path: tuple[str | int, ...], dotted: str) -> None:
    assert Problem(path, "x").dotted == dotted


def test_problems_stand_in_the_order_of_their_lines() -> None:
    error = RecipeError(
        Path("recipes/x.yaml"),
        [
            Problem(("b",), "late", 12),
            Problem(("a",), "early", 3),
            Problem((), "nowhere"),
            Problem(("c",), "from outside", origin="--set c=1"),
        ],
    )
    assert str(error).splitlines() == [
        "recipes/x.yaml: nowhere",
        "--set c=1: c: from outside",
        "recipes/x.yaml:3: a: early",
        "recipes/x.yaml:12: b: late",
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("GaekitError", 2),
        ("RecipeError", 2),
        ("PluginError", 2),
        ("ArtifactError", 2),
        ("DataError", 2),
        ("DataAbsent", 2),
        ("BadImage", 2),
        ("RunFailed", 3),
        ("MachineFailed", 4),
        ("Interrupted", 130),
        ("Preempted", 85),
    ],
)
def test_each_error_has_its_exit_code(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_no_error_is_left_out_of_the_table_above() -> None:
    assert sum(isinstance(e, type) and issubclass(e, GaekitError) for e in vars(errors).values()) == 12


def test_what_another_process_tells_ends_this_one_with_the_same_code() -> None:
    assert errors.ReportedByRank0("stopped", 85).exit_code == 85


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise error

    @app.command()
    def other() -> None:
        raise NotImplementedError

    return app


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException, *arguments: str) -> int:
    monkeypatch.setattr(cli, "make_app", lambda: failing(error))
    return cli.main(["fail", *arguments])


@pytest.mark.parametrize("name", ["GaekitError", "RunFailed", "MachineFailed", "Interrupted", "Preempted"])
def test_main_prints_the_message_and_returns_the_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = getattr(errors, name)("what [bold]happened[/bold] " + "x" * 200)
    assert run(monkeypatch, error) == error.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(f"what [bold]happened[/bold] {'x' * 200}\n")
    assert err.count("\n") == 1
    assert err.startswith("error: ") == (error.exit_code < 10)
    assert "Traceback" not in err


def test_a_recipe_error_is_a_line_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [Problem(("a",), "first", 1), Problem(("b",), "second", 2)]
    assert run(monkeypatch, RecipeError("x.yaml", problems)) == 2
    assert capsys.readouterr().err == "x.yaml:1: a: first\nx.yaml:2: b: second\n2 problems\n"


@pytest.mark.parametrize("arguments", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback_too(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "make_app", lambda: failing(errors.DataError("no images")))
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: no images\n")


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, KeyboardInterrupt()) == 130


def test_a_usage_error_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, ValueError(), "--no-such-option") == 2
    assert "No such option" in capsys.readouterr().err


def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, ZeroDivisionError("oh"))


def test_the_process_ends_with_1_and_a_traceback_where_nobody_foresaw() -> None:
    code = "import sys, gaekit.cli as c; c._run = lambda a: 1 / 0; sys.exit(c.main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
