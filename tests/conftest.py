"""For all tests: those marked `gpu` need a CUDA device, nothing reaches for a hub, and nothing is kept in a person's
cache."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CACHE = tempfile.mkdtemp(prefix="gaekit-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["GAEKIT_CACHE"], os.environ["HF_DATASETS_CACHE"] = CACHE, f"{CACHE}/datasets"


TINY_RUN = """
diffusion: {train: {steps: 6, batch: 16, lr: 1e-2}}
sample: {sampler: {use: euler, steps: 4}, guidance: {scale: 1.5, start: 0.25}, count: 12, batch: 6}
evaluate: {metrics: [{use: psnr}]}
runtime: {threads: 1, log_every: 1, save_every: 2}
"""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of every stage on scikit-learn's digits. It is shared: copy what you change."""
    from recipe_helpers import tiny_recipe
    from rich.console import Console

    from gaekit.pipeline.run import run_recipe
    from gaekit.plugins import load_plugins
    from gaekit.recipe import load_recipe
    from gaekit.train.progress import Reporter

    folder, registry = tmp_path_factory.mktemp("tiny"), load_plugins()
    (folder / "tiny.yaml").write_text(tiny_recipe(TINY_RUN))
    recipe = load_recipe(folder / "tiny.yaml", registry)
    return run_recipe(recipe, registry, out=folder / "runs", reporter=Reporter(Console(quiet=True))).path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
