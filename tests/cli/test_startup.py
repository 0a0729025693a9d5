"""The command line answers at once: help imports no torch, whatever plugins are installed."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_helpers import install

HEAVY = ("torch", "pydantic", "numpy", "yaml", "timm", "pluggy", "is_slow")
SHOW = """
import sys, gaekit.cli
code = gaekit.cli.main({arguments!r})
print([m for m in {heavy!r} if m in sys.modules], code)
"""


def gaekit(*arguments: str, path: Path, heavy: tuple[str, ...] = HEAVY) -> tuple[str, float]:
    """What is printed last (the heavy modules, the exit code), and the seconds that the process kept a core busy: those
    do not depend on what else the machine does."""
    code = SHOW.format(arguments=list(arguments), heavy=heavy)
    start = busy()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(path), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
        cwd=path,
    )
    return done.stdout.splitlines()[-1], busy() - start


def busy() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert gaekit(*arguments, path=install(tmp_path, "is_slow"))[0] == "[] 0"


def test_help_of_a_command_imports_no_torch(tmp_path: Path) -> None:
    heavy = tuple(name for name in HEAVY if name != "pydantic")  # which typer itself may use
    assert gaekit("check", "--help", path=install(tmp_path, "is_slow"), heavy=heavy)[0] == "[] 0"


def test_help_takes_less_than_half_a_second_with_a_slow_plugin(tmp_path: Path) -> None:
    install(tmp_path, "is_slow")
    gaekit("--help", path=tmp_path)  # files once read are in memory
    assert min(gaekit("--help", path=tmp_path)[1] for _ in range(3)) < 0.5


def test_recipes_are_listed_and_copied_without_torch(tmp_path: Path) -> None:
    install(tmp_path, "is_slow")
    heavy = ("torch", "numpy", "is_slow")
    assert gaekit("recipes", path=tmp_path, heavy=heavy)[0] == "[] 0"
    assert gaekit("recipes", "copy", "smoke", path=tmp_path, heavy=heavy)[0] == "[] 0"
    assert (tmp_path / "smoke.yaml").exists()


def test_a_bill_needs_neither_torch_nor_plugins(tmp_path: Path) -> None:
    install(tmp_path, "is_slow")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"name": "run", "stages": {}}')
    assert gaekit("bill", "run", "--json", path=tmp_path, heavy=("torch", "pluggy", "is_slow"))[0] == "[] 0"


def test_check_takes_little_more_than_torch_itself(tmp_path: Path) -> None:
    """Importing torch and its compiler, which its shapes without memory need, is most of it on any machine."""
    begin = busy()
    subprocess.run([sys.executable, "-c", "import torch, torch._dynamo"], check=True)
    torch_alone = busy() - begin
    line, seconds = gaekit("check", "quickstart", path=tmp_path, heavy=())
    assert line == "[] 0"
    assert seconds < 3 * torch_alone, f"{seconds:.1f} s, {torch_alone:.1f} of them for torch"
