"""For all tests: those marked `gpu` need a CUDA device, nothing reaches for a hub, and nothing is kept in a person's
cache."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CACHE = tempfile.mkdtemp(prefix="gaekit-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["GAEKIT_CACHE"], os.environ["HF_DATASETS_CACHE"] = CACHE, f"{CACHE}/datasets"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
