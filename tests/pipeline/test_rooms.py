"""Runs that share a store: they wait for each other, and `gaekit store gc` removes nothing that one of them needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_helpers import tiny_recipe

from gaekit.cli import main
from gaekit.pipeline.rooms import collect, stored_rooms
from gaekit.store.room import Room
from gaekit.train.training import Training

TINY = tiny_recipe("""
teacher: {use: efficientnet_lite0, layer: stage3}
aligner: {use: latent, head_dim: 20}
semantic: {train: {steps: 2, batch: 8}}
diffusion: {train: {ema: 0.9}}
sample: {sampler: {use: euler, steps: 1}, count: 4, batch: 4}
runtime: {save_every: 2, log_every: 1, cache_gb: 0.1, threads: 1}
""")
STAGES = ("features", "semantic", "autoencoder", "latents", "diffusion", "sample")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def names(out: Path) -> set[str]:
    return {stored.name for stored in stored_rooms(out)}


@pytest.mark.parametrize("count", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_runs_started_at_once_all_finish_and_share_what_is_the_same(here: Path, count: int) -> None:
    program = Path(__file__).with_name("shared_program.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), str(count), "tiny.yaml"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    said = {path.name: path.read_text() for path in here.glob("said-*.log")}
    assert done.stdout.split() == ["0"] * count, (done.stderr, said)
    assert {stage: len(list((here / "runs/store" / stage).iterdir())) for stage in STAGES} == {
        **dict.fromkeys(STAGES, 1), "sample": count,
    }  # fmt: skip
    trained = [text.count("autoencoder: done in") for text in said.values()]
    assert sorted(trained) == [0] * (count - 1) + [1]
    assert any("waiting for" in text and "in use by process" in text for text in said.values())


def test_no_wait_refuses_and_a_complete_stage_needs_no_lock(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny.yaml"]) == 0
    rooms = {stored.stage: stored.room for stored in stored_rooms(here / "runs")}
    with rooms["semantic"].lock(), rooms["features"].lock(), rooms["sample"].lock():
        assert main(["run", "tiny.yaml", "--no-wait"]) == 0
        assert main(["run", "tiny.yaml", "--no-wait", "--name", "other"]) == 0
    record = json.loads(Path("runs/other/run.json").read_text())
    Path("runs", record["stages"]["sample"]["room"], "DONE").unlink()
    with rooms["sample"].lock():
        assert main(["run", "tiny.yaml", "--no-wait"]) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_gc_spares_the_caches_of_a_stage_that_was_stopped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "update", stopped)
    assert main(["run", "tiny.yaml"]) == 130
    before = names(here / "runs")
    assert {name.split("/")[1] for name in before} == {"features", "semantic"}
    assert collect(here / "runs") == []
    monkeypatch.setattr("gaekit.pipeline.run._run_stage", stopped)  # the next attempt, before it has come to the stage
    assert main(["run", "tiny.yaml"]) == 130
    assert collect(here / "runs") == []
    assert names(here / "runs") == before


def test_gc_spares_what_a_run_takes_from_elsewhere(here: Path) -> None:
    assert main(["run", "tiny.yaml"]) == 0
    (denoiser,) = Path("runs/store/diffusion").glob("*/*/denoiser.safetensors")
    (autoencoder,) = Path("runs/store/autoencoder").iterdir()
    taking = [
        f"autoencoder={{from: {autoencoder}}}", f"diffusion.train.init={denoiser}", "diffusion.train.steps=2",
        f"sample.guidance={{scale: 2, weak: {{from: {denoiser}}}}}",
    ]  # fmt: skip
    again = ["run", "tiny.yaml", "--name", "taking", *(part for setting in taking for part in ("--set", setting))]
    assert main(again) == 0
    shutil.rmtree("runs/tiny")
    assert {stored.stage for stored in collect(here / "runs")} == {"features", "semantic", "latents", "sample"}
    assert main([*again, "--no-wait"]) == 0
    record = json.loads(Path("runs/taking/run.json").read_text())
    del record["stages"]["sample"]["external"]  # what the training starts from is needed even so
    Path("runs/taking/run.json").write_text(json.dumps(record))
    assert collect(here / "runs") == []


def test_gc_spares_a_room_in_which_a_process_works(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live, dead = Room(here / "runs/store/diffusion/aaaa"), Room(here / "runs/store/sample/bbbb")
    for room in (live, dead):
        room.describe({})
    with live.lock():
        assert main(["store", "gc", "--dry-run"]) == 0
        assert dead.path.exists()
        assert main(["store", "gc"]) == 0
    told = capsys.readouterr().out
    assert told.count(f"diffusion/aaaa  spared: in use by process {os.getpid()}") == 2
    assert "1 rooms removed" in told
    assert live.path.exists()
    assert not dead.path.exists()


def test_gc_follows_no_link_and_removes_nothing_but_rooms(here: Path) -> None:
    theirs = here / "theirs"
    (theirs / "thesis").mkdir(parents=True)
    (theirs / "thesis/stage.json").write_text("{}")
    store = here / "runs/store"
    (store / "sample").mkdir(parents=True)
    (store / "diffusion").symlink_to(theirs)
    (store / "sample/linked").symlink_to(theirs / "thesis")
    (store / "sample/notes").mkdir()
    (store / "sample/notes/notes.txt").write_text("")
    assert collect(here / "runs") == []
    assert main(["store", "ls"]) == 0
    assert (theirs / "thesis/stage.json").exists()
    assert (store / "sample/notes/notes.txt").exists()


def test_a_damaged_record_hides_no_other_run_and_has_nothing_removed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room = Room(here / "runs/store/diffusion/aaaa")
    room.describe({})
    (here / "runs/bad").mkdir()
    (here / "runs/bad/run.json").write_text('{"stages": {"diffusion": 3}}')
    assert main(["store", "ls"]) == 0
    told = capsys.readouterr()
    assert "aaaa" in told.out
    assert "runs/bad/run.json: damaged" in told.err
    assert main(["store", "gc"]) == 2
    assert room.path.exists()
