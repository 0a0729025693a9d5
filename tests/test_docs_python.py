"""The code of docs/python.md runs, from top to bottom, and says what the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.fixture
def quickstart(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds runs/quickstart, a tiny run of that name, and a recipe like it."""
    shutil.copytree(tiny_run, tmp_path / "runs/quickstart", symlinks=True)
    shutil.copytree(tiny_run.parent / "store", tmp_path / "runs/store")
    shutil.copy(tiny_run.parents[1] / "tiny.yaml", tmp_path / "my_recipe.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_of_the_page_runs(quickstart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)):
        exec(compile(block, f"docs/python.md, block {number}", "exec", dont_inherit=True), names)
    said = capsys.readouterr().out
    assert said.startswith("<run runs/quickstart: done>\nsemantic done")
    assert "reconstruction/psnr " in said
    assert "50/50 steps" not in said
    assert "4/4 steps" in said
    assert said.endswith("cached\n")
    assert names["pictures"].labels == (3,) * 4
    assert len(names["way"]) == 8
    assert names["latents"].shape == (*names["again"].tensors.shape[:1], 4, 4, 4)
    with Image.open(quickstart / "grid.png") as grid:
        assert grid.size == (4 * 18 + 2, 4 * 18 + 2)
