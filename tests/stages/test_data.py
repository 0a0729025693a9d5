"""A data set is listed once a run, by one process of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recipe_helpers import tiny_recipe

import gaekit_datasets.image_folder as image_folder
from gaekit.api import Dataset
from gaekit.cli import main
from gaekit.parallel import World
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.stages.data import Data

RECIPE = tiny_recipe("""
dataset: {use: image_folder, root: images}
teacher: {use: efficientnet_lite0, layer: stage3}
aligner: {use: latent, head_dim: 20}
semantic: {train: {steps: 2, batch: 8}}
sample: {sampler: {use: euler, steps: 2}, count: 10}
evaluate: {metrics: [{use: psnr}]}
runtime: {trackers: [], threads: 1}
""")
COUNTING = """
import os, sys
import gaekit_datasets.image_folder as image_folder
from gaekit.cli import main
before = image_folder.scan
def scan(*inputs):
    with open("scans.txt", "a") as file:
        file.write(os.environ["RANK"] + "\\n")
    return before(*inputs)
image_folder.scan = scan
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and a few of scikit-learn's digits as files, in which the test runs."""
    from PIL import Image
    from sklearn.datasets import load_digits

    (tmp_path / "images").mkdir()
    for index, digit in enumerate(load_digits().images[:40]):
        Image.fromarray((digit * 15).astype("uint8")).resize((16, 16)).save(tmp_path / "images" / f"{index}.png")
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [["run", "tiny.yaml"], ["plan", "tiny.yaml"]])
@pytest.mark.usefixtures("here")
def test_a_run_of_all_stages_scans_its_folder_once(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scanned, before = [], image_folder.scan

    def scan(*inputs: Any) -> Any:
        scanned.append(inputs[0])
        return before(*inputs)

    monkeypatch.setattr(image_folder, "scan", scan)
    assert main(command) == 0
    assert scanned == [Path("images")]


def test_of_two_processes_the_first_scans_for_both(here: Path) -> None:
    (here / "program.py").write_text(COUNTING)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "program.py"]
    command = [*launcher, "run", "tiny.yaml", "--until", "latents"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert (here / "scans.txt").read_text() == "0\n"


class FirstOfTwo(World):
    """Keeps what it sends."""

    def broadcast(self, value: Any) -> Any:
        self.__dict__["sent"] = value
        return value


class SecondOfTwo(World):
    """Hears what another sent."""

    def broadcast(self, value: Any) -> Any:
        assert value is None
        return self.__dict__["heard"]


@pytest.mark.usefixtures("here")
def test_a_data_set_that_cannot_be_sent_is_listed_by_every_process() -> None:
    registry = load_plugins()
    recipe = load_recipe("tiny.yaml", registry)
    first, second = FirstOfTwo(0, 2), SecondOfTwo(1, 2)
    own = Data(recipe, registry)
    digest = own.digest

    class Local(type(own.dataset)):  # type: ignore[misc]
        """A class that no other process knows."""

    for cls, sent in ((type(own.dataset), True), (Local, False)):
        own.dataset.__class__ = cls
        own.share(first)
        assert (first.__dict__["sent"] is not None) == sent
        other = Data(recipe, registry)
        second.__dict__["heard"] = first.__dict__["sent"]
        other.share(second)
        assert ("dataset" in other.__dict__) == sent
        assert isinstance(other.dataset, Dataset)
        assert other.digest == digest
