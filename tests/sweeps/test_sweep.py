"""Sweeps of real runs: shared stages are trained once, a kill loses nothing, and several processes may work on one."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sweep_helpers import GRID, write

from gaekit.cli import main
from gaekit.pipeline.rooms import collect as collect_garbage
from gaekit.store.attempts import read_attempts

SMOKE = """sweep: 1
name: tries
recipe: smoke
grid:
  diffusion.denoiser.depth: [1, 2]
  sample.guidance.scale: [1.0, 2.0]
seeds: [0, 1]
set: {runtime.threads: 1}
"""
ROOMS = {"semantic": 2, "autoencoder": 2, "latents": 2, "diffusion": 4, "sample": 8, "evaluate": 8}
"""How many results of each stage 2 x 2 settings x 2 seeds have: the depth changes the denoiser, the scale samples."""


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gaekit", "sweep", "sweep.yaml", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(runs: Path) -> Counter[str]:
    """How often each stage has been made, by the attempts at it."""
    files = (runs / "store").glob("*/*/attempts.jsonl")
    made = [(file.parents[1].name, attempt) for file in files for attempt in read_attempts(file)]
    return Counter(stage for stage, attempt in made if attempt.outcome == "done")


def check_table(folder: Path, runs: int, name: str = "tries") -> None:
    """The table's numbers are those of the runs' metrics.json, averaged."""
    found = [path for path in (folder / "runs").glob(f"{name}.*") if (path / "run.json").exists()]
    assert len(found) == runs
    numbers = {path.name: json.loads((path / "metrics.json").read_text()) for path in found}
    with (folder / f"runs/{name}.sweep/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["run"], r["metric"]): float(r["value"]) for r in rows} == {
        (run, metric): entry["value"] for run, metrics in numbers.items() for metric, entry in metrics.items()
    }
    with (folder / f"runs/{name}.sweep/table.csv").open() as file:
        for row in csv.DictReader(file):
            own = [float(r["value"]) for r in rows if (r["setting"], r["metric"]) == (row["setting"], row["metric"])]
            assert int(row["n"]) == len(own)
            assert float(row["mean"]) == pytest.approx(sum(own) / len(own), rel=1e-12)


def test_a_sweep_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, GRID)
    common = ["run", "tiny.yaml", "--set", "runtime.threads=1", "--set", "evaluate.metrics=[{use: psnr}]"]
    assert main([*common, "--set", "sample.guidance.scale=1.0", "--name", "tiny-scale.scale_1.0"]) == 0
    capsys.readouterr()
    assert main([*common, "--sweep", "sample.guidance.scale=1.0,1.5", "--jobs", "2"]) == 0
    told = capsys.readouterr()
    assert "1 of 2 runs are finished already" in told.err  # the one that its own command made
    assert "[2/2] scale_1.5: finished in" in told.err
    assert "2 settings of sample.guidance.scale over the recipe tiny.yaml" in told.out
    assert all(len(line) <= 80 for line in told.out.splitlines() if line.startswith(("setting", "scale_")))
    check_table(tmp_path, 2, "tiny-scale")
    runs = tmp_path / "runs"
    assert done(runs) == {
        "semantic": 1, "autoencoder": 1, "latents": 1, "diffusion": 1, "sample": 2, "evaluate": 2,
    }  # fmt: skip
    assert collect_garbage(runs, dry=True) == []
    record = json.loads((runs / "tiny-scale.scale_1.5/run.json").read_text())
    assert record["command"][:5] == ["gaekit", "run", "tiny.yaml", "--set", "runtime.threads=1"]

    written = "runs/tiny-scale.sweep/sweep.yaml"
    before = (runs / "tiny-scale.sweep/table.md").read_text()
    (runs / "tiny-scale.sweep/table.md").unlink()
    assert main(["sweep", written, "--plan"]) == 0
    assert capsys.readouterr().out.count("finished") == 2
    assert main(["sweep", written, "--table", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] == 2
    again = (runs / "tiny-scale.sweep/table.md").read_text()
    assert again.splitlines()[4:] == before.splitlines()[4:]


def test_options_about_one_run_are_refused_with_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "smoke", "--sweep", "seed=0,1", "--redo", "sample"]) == 2
    assert "--redo is about one run" in capsys.readouterr().err
    assert main(["run", "smoke", "--jobs", "2"]) == 2
    assert "--jobs is for --sweep" in capsys.readouterr().err


def test_the_plan_says_how_often_each_stage_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SMOKE)
    assert main(["sweep", "sweep.yaml", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {stage["stage"]: stage["results"] for stage in plan["stages"]} == ROOMS
    assert {stage["stage"]: stage["runs"] for stage in plan["stages"]}["diffusion"] == [2, 2]
    assert [run["state"] for run in plan["runs"]] == ["from semantic"] * 8
    assert not (tmp_path / "runs").exists()

    assert main(["sweep", "sweep.yaml", "--plan", "--json", "--only", "depth_1-scale_1.0", "--seed", "1"]) == 0
    assert [r["run"] for r in json.loads(capsys.readouterr().out)["runs"]] == ["tries.depth_1-scale_1.0-seed_1"]
    assert main(["sweep", "sweep.yaml", "--plan", "--only", "depth_3"]) == 2
    assert "sweep 'tries' has no setting depth_3; it has depth_1-scale_1.0, " in capsys.readouterr().err
    assert main(["sweep", "sweep.yaml", "--plan", "--seed", "7"]) == 2
    assert "sweep 'tries' has no seed 7; it has 0, 1" in capsys.readouterr().err


@pytest.mark.slow  # pytest tests/sweeps -m slow
def test_eight_runs_train_each_shared_stage_once_and_survive_a_kill(tmp_path: Path) -> None:
    write(tmp_path, SMOKE)
    runs = tmp_path / "runs"
    first = started(tmp_path, "--jobs", "2")
    deadline = time.monotonic() + 300
    while done(runs)["autoencoder"] < 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert 0 < sum(done(runs).values()) < sum(ROOMS.values())
    second = started(tmp_path, "--jobs", "2")
    out, told = second.communicate(timeout=600)
    assert second.returncode == 0, told
    assert done(runs) == ROOMS, told
    check_table(tmp_path, 8)
    assert "4 settings of diffusion.denoiser.depth, sample.guidance.scale" in out


@pytest.mark.slow
def test_nine_runs_by_three_processes_all_finish(tmp_path: Path) -> None:
    write(tmp_path, GRID.replace("[1.0, 1.5]", "[1.0, 1.5, 2.0]").replace("depth: [1, 2]", "depth: [1, 2, 3]")
          .replace("seeds: [0, 1]\n", ""))  # fmt: skip
    ones = [started(tmp_path, "--jobs", "3") for _ in range(3)]
    ends = [one.communicate(timeout=600) for one in ones]
    assert [one.returncode for one in ones] == [0, 0, 0], ends
    check_table(tmp_path, 9)
    assert done(tmp_path / "runs") == {
        "semantic": 1, "autoencoder": 1, "latents": 1, "diffusion": 3, "sample": 9, "evaluate": 9,
    }  # fmt: skip
    assert len({out.partition("written")[0] for out, _ in ends}) == 1


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_saved(tmp_path: Path) -> None:
    text = GRID.replace("diffusion.train.steps: 3", "diffusion.train: {steps: 100000, batch: 8}")
    write(tmp_path, text.replace("[0, 1]", "[0]"))
    one = started(tmp_path, "--jobs", "2")
    deadline = time.monotonic() + 120
    runs = tmp_path / "runs"
    while not list(runs.glob("store/diffusion/*/trackers")):
        assert one.poll() is None, one.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    one.send_signal(signal.SIGINT)
    _, told = one.communicate(timeout=120)
    assert one.returncode == 130, told
    assert "stopping: 2 runs to save and end" in told
    assert "the same command goes on" in told
    assert list(runs.glob("store/diffusion/*/checkpoints/step-*"))
    for log in runs.glob("tries.sweep/members/*/outcome.json"):
        pid = int(json.loads(log.read_text())["by"].split()[1])
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
