"""`gaekit --help` shows every command in a panel, with one sentence on one line; the shell completes their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from gaekit import stages
from gaekit.cli import EXTEND, LOOK, LOOK_AFTER, MAKE, USE, first_sentence, main, make_app
from gaekit.cli.options import STAGES

PANELS = (MAKE, LOOK, USE, EXTEND, LOOK_AFTER)
COMMANDS = get_command(make_app()).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_a_panel_with_one_sentence_on_one_line(name: str) -> None:
    command = COMMANDS[name]
    assert command.rich_help_panel in PANELS
    text = command.short_help or command.help
    assert text == first_sentence(text)
    assert text.endswith(".")
    assert len(text) <= 64


def test_panels_come_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown  # typer's panel for those that have none


def test_a_first_sentence_is_cut_at_its_end_and_not_at_dots_in_a_row() -> None:
    assert first_sentence("Say OK ... or not.\n\n    And more.") == "Say OK ... or not."
    assert first_sentence("Read\n    runs/x.png. Then stop.") == "Read runs/x.png."


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("gaekit rec", ["reconstruct", "recipes"]),
        ("gaekit run q", ["quick.yaml", "quickstart"]),
        ("gaekit run smoke --until s", ["semantic", "sample"]),
    ],
)
def test_the_shell_completes_commands_recipes_and_stages(
    words: str,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "quick.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_GAEKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert main([]) == 0
    assert capsys.readouterr().out.split() == expected


def test_the_stages_that_are_completed_are_those_that_there_are() -> None:
    assert tuple(stage.name for stage in stages.STAGES) == STAGES
