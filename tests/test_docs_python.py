"""The code of docs/python.md and of docs/gaekit.ipynb runs, from top to bottom, and says what they say."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "python.md").read_text(encoding="utf-8")
NOTEBOOK = json.loads((DOCS / "gaekit.ipynb").read_text(encoding="utf-8"))


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


def test_the_code_of_the_notebook_runs_and_gives_what_is_stored(quickstart: Path) -> None:
    """Each cell's last line gives a picture where one is stored, on the tiny run in place of the quickstart."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    names: dict[str, Any] = {}
    pictures = 0
    for cell in (cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"):
        body = ast.parse("".join(cell["source"]))
        last = body.body.pop()
        assert isinstance(last, ast.Expr), cell["source"]
        exec(compile(body, "docs/gaekit.ipynb", "exec", dont_inherit=True), names)
        value = eval(compile(ast.Expression(last.value), "docs/gaekit.ipynb", "eval", dont_inherit=True), names)
        stored = {kind for output in cell["outputs"] for kind in output["data"]}
        assert ("image/png" in stored) == isinstance(value, Image.Image | pyplot.Axes), cell["source"]
        pictures += "image/png" in stored
    assert pictures >= 6
    pyplot.close("all")


def test_the_notebook_was_run_from_top_to_bottom_without_an_error() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} == {"execute_result", "display_data"}
    for output in (output for cell in cells for output in cell["outputs"] if "image/png" in output["data"]):
        with Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))) as picture:
            darkest, lightest = picture.convert("L").getextrema()
            assert lightest - darkest > 128
