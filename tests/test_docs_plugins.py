"""The components of docs/plugins.md keep the contract that the page explains."""

from __future__ import annotations

import re
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


LISTED = [*examples("## One in twenty lines"), *examples("<!-- examples:")]


def test_the_page_shows_five_kinds() -> None:
    assert [c.kind for c in LISTED] == ["noise", "regularizer", "denoiser", "metric", "dataset"]
    assert {c.kind for c in LISTED} <= set(KINDS)


@pytest.mark.parametrize("component", LISTED, ids=lambda c: str(c.name))
def test_a_component_of_the_page_keeps_its_promises(component: Any) -> None:
    check_component(component)
