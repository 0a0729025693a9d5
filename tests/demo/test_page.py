"""The page's parts for the run at hand, and its sentences about what goes wrong; those about its layout need gradio."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from demo_helpers import without_denoiser

from gaekit.cli import main
from gaekit.errors import GaekitError

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs gradio: pip install 'gaekit[demo]'"
)


def test_without_the_extra_the_command_says_what_to_install(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(tiny_run)]) == 2
    assert capsys.readouterr().err == (
        "error: the page needs gradio, which is not installed: pip install 'gaekit[demo]'\n"
    )


PAGES = """
import json, sys, threading
from dataclasses import replace
import gaekit
from gaekit.demo.page import make_page

plain, unconditional, alone = (gaekit.open(path) for path in (sys.argv[1], sys.argv[1], sys.argv[2]))
unconditional.denoiser = replace(
    unconditional.denoiser, spec=replace(unconditional.denoiser.spec, classes=())
)
found = []
for run in (plain, unconditional, alone):
    blocks = make_page(run, threading.Event()).blocks
    found.append([part["props"] for part in blocks.get_config_file()["components"]])
print(json.dumps(found, default=str))
"""
"""In a process of its own: gradio leaves event loops unclosed, which warn when they are collected."""


@dataclass(frozen=True)
class Built:
    """The properties of a page's components by their ids, and all that it says in HTML."""

    parts: dict[str, dict[str, Any]]
    told: str


@pytest.fixture(scope="module")
def built(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    """The pages of a run, of one without classes, of one without a denoiser."""
    folder = tmp_path_factory.mktemp("pages")
    alone = without_denoiser(tiny_run, folder / "runs").path
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder / "files")}
    command = [sys.executable, "-c", PAGES, str(tiny_run), str(alone)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    pages = []
    for props in json.loads(done.stdout.splitlines()[-1]):
        told = " ".join(str(part.get("value")) for part in props if part.get("name") == "html")
        pages.append(Built({part["elem_id"]: part for part in props if part.get("elem_id")}, told))
    return pages


@needs_gradio
def test_the_controls_have_what_the_recipe_has(built: list[Built]) -> None:
    found = built[0].parts
    names = ("count", "steps", "guidance", "start", "end", "seed")
    assert [found[name]["value"] for name in names] == [20, 4, 1.5, 0.25, 1.0, 0]
    assert [name for name, _ in found["classes"]["choices"]] == [str(digit) for digit in range(10)]
    assert found["classes"]["visible"]
    assert "<h1>tiny</h1><p>16 × 16 pixels, latents 4 × 4 × 4, 10 classes, computing on " in built[0].told


@needs_gradio
def test_an_unconditional_run_has_no_choice_of_classes(built: list[Built]) -> None:
    assert not built[1].parts["classes"]["visible"]
    assert built[1].parts["steps"]["visible"]
    assert "no classes" in built[1].told


@needs_gradio
def test_a_run_without_a_denoiser_reconstructs_and_says_why_it_does_no_more(built: list[Built]) -> None:
    assert "make" not in built[2].parts
    assert {"dropped", "sigma", "noise-seed"} <= set(built[2].parts)
    assert "It makes no new images: " in built[2].told
    assert "diffusion" in built[2].told


@needs_gradio
def test_what_goes_wrong_is_a_sentence_and_leaves_the_pictures(caplog: pytest.LogCaptureFixture) -> None:
    import gradio

    from gaekit.demo.page import _answered

    def mendable() -> tuple[Any, ...]:
        raise GaekitError("steps: <0>: expected more")

    def fault() -> tuple[Any, ...]:
        raise RuntimeError("a shape is wrong")

    told, *rest = _answered(mendable, 2)
    assert told == '<p class="error" role="alert">steps: &lt;0&gt;: expected more</p>'
    assert rest == [gradio.skip()] * 2
    assert not caplog.records
    with caplog.at_level(logging.ERROR):
        told = _answered(fault, 2)[0]
    assert "RuntimeError: a shape is wrong (the terminal tells where)" in told
    assert caplog.records[0].exc_info
    assert _answered(lambda: (1, 2), 2) == ("", 1, 2)
