"""The recipe and the commands of docs/sampling.md are right."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from gaekit.cli import main, make_app

TEXT = (Path(__file__).parents[1] / "docs" / "sampling.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    gaekit (.+)$", TEXT, flags=re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_options_shown(command: str) -> None:
    name, *arguments = shlex.split(command)
    get_command(make_app()).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("run ")])
def test_every_change_of_a_recipe_is_one_that_it_knows(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)[1:]
    changes = [word for before, word in pairwise(words) if before == "--set"]
    assert main(["check", words[0], *(part for change in changes for part in ("--set", change))]) == 0
    assert "weak.from: there is no" in capsys.readouterr().err or "weak" not in str(changes)


def test_the_section_shown_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    shown = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", TEXT, flags=re.M | re.S)[0])["sample"]
    changes = [f"sample.{key}={yaml.safe_dump(value, default_flow_style=True).strip()}" for key, value in shown.items()]
    changes = [change.removesuffix("\n...") for change in changes]
    assert main(["check", "quickstart", *(part for change in changes for part in ("--set", change))]) == 0
