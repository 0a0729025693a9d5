"""`make gpu` on a machine without CUDA, and the folder that it runs from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).with_name("run.py")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_it_says_so_and_ends_with_2(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "finds no CUDA device on this machine" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # `make test-all`
def test_the_copy_that_it_runs_finds_the_plugins_and_recipes_without_an_installation(tmp_path: Path) -> None:
    make = "import sys; sys.path.insert(0, sys.argv[1]); import run, pathlib; run.installed(pathlib.Path(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", make, str(PROGRAM.parent), str(tmp_path)], check=True, timeout=60)
    look = "import gaekit, gaekit.cli, sys; print(gaekit.__file__); sys.exit(gaekit.cli.main(['check', 'smoke']))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", look]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
