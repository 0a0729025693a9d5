"""Runs as the page may find them, and what a run's folders hold."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import gaekit
from gaekit.runs.opened import OpenRun


def without_denoiser(run: Path, out: Path) -> OpenRun:
    """A copy of a run whose denoiser is gone."""
    shutil.copytree(run, out / run.name, symlinks=True)
    shutil.copytree(run.parent / "store", out / "store", ignore=shutil.ignore_patterns("diffusion"))
    return gaekit.open(out / run.name)


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Each file below a folder with its time and its hash."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(f): (f.stat().st_mtime_ns, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files}
