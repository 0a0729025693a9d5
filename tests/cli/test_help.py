"""`gaekit --help` shows every command in a panel, with one sentence on one line; the shell completes their names."""

from __future__ import annotations

import pytest
from typer.main import get_command

from gaekit.cli import EXTEND, LOOK, LOOK_AFTER, MAKE, USE, first_sentence, main, make_app

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


def test_the_shell_is_told_the_names_of_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("_GAEKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "gaekit rec")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert main([]) == 0
    assert capsys.readouterr().out.split() == ["reconstruct", "recipes"]
