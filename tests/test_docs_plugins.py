"""The components of docs/plugins.md keep the contract that the page explains."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gaekit.api import KINDS
from gaekit.testing import check_component

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")


def examples(start: str) -> list[Any]:
    """The components of the first block of Python after `start`."""
    block = re.search(r"```python\n(.*?)```", PAGE.split(start, 1)[1], flags=re.DOTALL)
    assert block
    name = "a_plugin_of_the_page_" + re.sub(r"\W", "", start)
    module = sys.modules[name] = ModuleType(name)  # where pickle looks for what stands in it
    exec(compile(block[1], "docs/plugins.md", "exec", dont_inherit=True), module.__dict__)
    return list(module.gaekit_components())


LISTED = [
    *examples("## One in twenty lines"), *examples("<!-- examples:"), *examples("<!-- more examples:"),
]  # fmt: skip


def test_the_page_shows_seven_kinds() -> None:
    shown = ["noise", "regularizer", "denoiser", "metric", "dataset", "sampler", "tracker", "metric"]
    assert [c.kind for c in LISTED] == shown
    assert {c.kind for c in LISTED} <= set(KINDS)


@pytest.mark.parametrize("component", LISTED, ids=lambda c: str(c.name))
def test_a_component_of_the_page_keeps_its_promises(component: Any) -> None:
    check_component(component)


def test_the_tracker_of_the_page_forgets_what_a_resumed_run_logs_again(tmp_path: Path) -> None:
    lines = next(c for c in LISTED if c.kind == "tracker")
    for purge, steps in ((0, (1, 2, 3)), (2, (2, 3))):
        tracker = lines(lines.Config(use="lines"), folder=tmp_path / "lines", purge_step=purge, stage=None)
        for step in steps:
            tracker.log(step, {"loss": purge + step}, {})
        tracker.close()
    logged = [json.loads(line) for line in (tmp_path / "lines" / "log.jsonl").read_text().splitlines()]
    assert logged == [{"step": 1, "loss": 1}, {"step": 2, "loss": 4}, {"step": 3, "loss": 5}]


def test_the_module_is_named_in_the_pyproject_so_that_no_folder_is_taken_for_it(tmp_path: Path) -> None:
    toml = re.search(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert toml
    (tmp_path / "pyproject.toml").write_text(toml[1])
    (tmp_path / "gaekit_laplace.py").write_text("")
    (tmp_path / "runs").mkdir()  # as after the first run
    code = "import setuptools, sys; print(setuptools.setup().py_modules, setuptools.setup().packages)"
    made = subprocess.run(
        [sys.executable, "-c", code, "--quiet", "egg_info"], cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip().startswith("['gaekit_laplace'] ")
    assert "runs" not in made.stdout
