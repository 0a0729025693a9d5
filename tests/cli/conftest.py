"""One run of the smoke recipe for all tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_helpers import gaekit


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/smoke`."""
    folder = tmp_path_factory.mktemp("smoke")
    gaekit(folder, "run", "smoke")
    return folder
