"""The page about clusters: its batch script, by stand-ins for SLURM's commands, its exit codes and its fields."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gaekit import errors
from gaekit.recipe.schema import Runtime

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "clusters.md").read_text(encoding="utf-8")
SCRIPT = DOCS / "slurm" / "gae.sbatch"
SRUN = """#!/bin/sh
echo "$@" > called
printf 0 > "$GAEKIT_EXIT_CODES/rank-0"
printf %s "$RANK_1_ENDS_WITH" > "$GAEKIT_EXIT_CODES/rank-1"
[ "$RANK_1_ENDS_WITH" = 0 ]
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then printf 'node7\\nnode8\\n'; else echo "$@" > requeued; fi
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("rank", "code", "requeued"), [("85", 1, True), ("0", 0, False), ("3", 1, False), ("185", 1, False)]
)
def test_the_batch_script_requeues_a_job_that_was_preempted(
    tmp_path: Path, rank: str, code: int, requeued: bool
) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "RANK_1_ENDS_WITH": rank}
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = ["bash", "-u", str(SCRIPT), "gae_d32", "--set", "seed=1"]
    environment = {**os.environ, **slurm, "PATH": path, "RUNS": str(tmp_path / "runs")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    called = (tmp_path / "called").read_text()
    assert "--rdzv-endpoint=node7:29500 -m gaekit run gae_d32 --set seed=1 --out" in called
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 42\n"


def test_the_exit_codes_are_those_of_the_errors() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, flags=re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GaekitError)]
    assert told == {0, 1, *(kind.exit_code for kind in kinds if hasattr(kind, "exit_code"))}


def test_the_settings_that_it_names_are_fields_of_runtime() -> None:
    section = PAGE.split("## Memory")[1].split("##")[0]
    named = set(re.findall(r"^\| `(\w+): \w+` \|", section, flags=re.MULTILINE))
    assert named == {"strategy", "ema_offload", "checkpointing", "micro_batch"}
    assert named <= set(Runtime.model_fields)
