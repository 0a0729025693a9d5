"""docs/api.md is what the docstrings say, and leaves out nothing that plugins may import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gaekit.api
import gaekit.api.flow
import gaekit.api.metrics
import gaekit.api.nn

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    made = subprocess.run([sys.executable, ROOT / "docs" / "make_api.py", "--check"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_a_page_that_is_out_of_date_is_told(tmp_path: Path) -> None:
    script = tmp_path / "make_api.py"
    script.write_text((ROOT / "docs" / "make_api.py").read_text())
    (tmp_path / "api.md").write_text(PAGE.replace("float32", "float64"))
    made = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert made.returncode == 1
    assert "api.md is out of date: run python docs/make_api.py" in made.stderr


@pytest.mark.parametrize("module", [gaekit.api, gaekit.api.nn, gaekit.api.flow, gaekit.api.metrics])
def test_everything_public_stands_there(module: object) -> None:
    missing = [name for name in module.__all__ if f"`{name}" not in PAGE and name != "weights"]  # type: ignore[attr-defined]
    assert missing == []
