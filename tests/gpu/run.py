"""What `make gpu` runs: the tests marked `gpu` and the benchmarks, on a machine with CUDA, in under nine minutes.

    python tests/gpu/run.py [--out FOLDER]

It needs a Python with torch and pytest, and no installation of gaekit: the checkout is copied into a temporary folder
beside what tells Python of its plugins, with the wheels that `.whl/` holds, if there are any. Results go to FOLDER
(`$OUT`, or `gpu-results/`) as they come: what the tests print, and a JSON file a benchmark. Without a CUDA device it
says so and ends with 2; with 1 where a test or a benchmark fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 8.5
PROGRAMS = (
    ("tests", 200, [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", str(ROOT / "tests/gpu")]),
    ("training_step", 170, [sys.executable, str(ROOT / "benchmarks/training_step.py")]),
    ("sampling", 70, [sys.executable, str(ROOT / "benchmarks/sampling.py"), "--rounds", "5"]),
    ("evaluation", 60, [sys.executable, str(ROOT / "benchmarks/evaluation.py"), "--rounds", "3"]),
)  # fmt: skip
"""(name, seconds that it may take, command); a benchmark also gets --json."""


def installed(folder: Path) -> Path:
    """The packages of the checkout and of the wheels in one folder for PYTHONPATH, with the entry points of both."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for wheel in sorted((ROOT / ".whl").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    for name, path in project["tool"]["setuptools"]["package-dir"].items():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / path, folder / name.replace(".", "/"), ignore=ignored, dirs_exist_ok=True)
    facts = folder / "gaekit-0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: gaekit\nVersion: 0\n")
    plugins = project["project"]["entry-points"]["gaekit"]
    (facts / "entry_points.txt").write_text("[gaekit]\n" + "".join(f"{k} = {v}\n" for k, v in plugins.items()))
    return folder


def run(out: Path) -> bool:
    """Run everything within the time; whether all of it went well."""
    end, sound = time.monotonic() + 60 * MINUTES, True
    with tempfile.TemporaryDirectory(prefix="gaekit-gpu-") as folder:
        environment = {**os.environ, "PYTHONPATH": str(installed(Path(folder))), "PYTHONDONTWRITEBYTECODE": "1"}
        for name, allowed, command in PROGRAMS:
            given = [*command, "--json", str(out / f"{name}.json")] if name != "tests" else command
            seconds = min(allowed, end - time.monotonic())
            print(f"== {name} (up to {seconds:.0f} s)", flush=True)
            sound &= seconds > 0 and _done(given, out / f"{name}.txt", seconds, environment)
    return sound


def _done(command: list[str], log: Path, seconds: float, environment: dict[str, str]) -> bool:
    """Run a program, its lines on the screen and in a file; whether it ended in time and well."""
    process = subprocess.Popen(
        ["timeout", "-k", "5", f"{seconds:.0f}", *command], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
    return process.wait() == 0


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "gpu-results")))
    given = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("make gpu: this Python has no torch; name one that has: make gpu PYTHON=...", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print(f"make gpu: torch {torch.__version__} finds no CUDA device on this machine", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    return 0 if run(given.out) else 1


if __name__ == "__main__":
    sys.exit(main())
