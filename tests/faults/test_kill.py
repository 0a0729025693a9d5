"""A run that is killed at random, again and again, ends as one that was left alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults.rooms import differences

PROGRAM = Path(__file__).parent / "kill.py"


@pytest.mark.slow
def test_a_run_killed_a_few_times_ends_as_one_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "--kills", "4", "--jobs", "1", "--seed", "7", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^all +4 ", done.stdout, re.MULTILINE), done.stdout
    assert "0 faults" in done.stdout


def test_what_differs_is_named_by_file() -> None:
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == []
    assert differences({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "5"}) == [
        "d: is not there",
        "c: is left over",
        "b: differs",
    ]
