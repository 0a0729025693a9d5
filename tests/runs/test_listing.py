"""`gaekit runs` tells how each run of a folder stands, from files alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gaekit.cli import main
from gaekit.cli.output import make_table
from gaekit.cli.runs import HEAD, row_of
from gaekit.pipeline.view import TRIALS
from gaekit.runs.listing import Listed, Progress, list_runs
from gaekit.store.record import STAGE_NAMES, STORE
from gaekit.store.room import Room

LIST = """
import sys, gaekit.cli
code = gaekit.cli.main(["runs", "--out", sys.argv[1]])
print([name for name in ("torch", "numpy", "pluggy", "timm", "matplotlib") if name in sys.modules], code)
"""


@pytest.fixture
def out(tiny_run: Path, tmp_path: Path) -> Path:
    """A folder of runs with one that is finished, without what other tests have put beside its rooms and results."""

    def others(folder: str, names: list[str]) -> set[str]:
        return set(names) - {*STAGE_NAMES, "features"} if Path(folder).name == STORE else {"tuning"} & set(names)

    shutil.copytree(tiny_run.parent, tmp_path / "runs", symlinks=True, ignore=others)
    return tmp_path / "runs"


def change(out: Path, name: str, **stages: str) -> Room:
    """A run of that name whose record has these stages in these states, and no end; the room of the last of them, which
    is not complete and no other run's."""
    shutil.copytree(out / "tiny", out / name, symlinks=True)
    record = json.loads((out / name / "run.json").read_text())
    record["finished"] = None
    for stage, status in stages.items():
        entry = record["stages"][stage]
        entry["status"] = status
        entry.pop("record", None)
        room = Room(out / entry["room"], entry["subfolder"])
    copy = room.path.with_name(f"{room.path.name}-2")
    shutil.copytree(room.path, copy)
    entry["room"] = str(copy.relative_to(out))
    (out / name / "run.json").write_text(json.dumps(record))
    room = Room(copy, room.subfolder)
    (room.out / "DONE").unlink()
    return room


def listed(out: Path, name: str) -> Listed:
    return next(run for run in list_runs(out) if run.name == name)


def attempt(room: Room, **more: Any) -> None:
    line = json.loads(room.attempts.read_text().splitlines()[-1]) | more
    room.attempts.write_text(json.dumps(line) + "\n")


def test_a_finished_run_is_done_with_its_numbers_and_size(out: Path) -> None:
    (run,) = list_runs(out)
    files = [p for p in out.rglob("*") if p.is_file() and not p.is_symlink()]
    assert (run.state, run.stage, run.progress) == ("done", None, Progress())
    assert list(run.numbers) == ["reconstruction/psnr"]
    assert run.size == sum(file.lstat().st_size for file in files)


def test_a_training_that_runs_tells_its_step_and_the_time_left(out: Path) -> None:
    room = change(out, "new", evaluate="pending", sample="pending", diffusion="pending")
    attempt(room, outcome="running", seconds=7.0, ready_seconds=3.0, first_step=0, last_step=2)
    shutil.rmtree(room.checkpoints)
    with room.lock():
        run = listed(out, "new")
        assert (run.state, run.stage) == ("running", "diffusion")
        assert run.progress == Progress(2, 6, left=4 * 2.0)
        assert [run.name for run in list_runs(out)] == ["new", "tiny"]
    assert listed(out, "new").state == "stopped"
    assert listed(out, "new").progress == Progress(2, 6, None)


def test_samples_are_counted_by_their_chunks(out: Path) -> None:
    room = change(out, "new", evaluate="pending", sample="pending")
    (room.out / "chunks").mkdir()
    (room.out / "chunks/samples-00000006.safetensors").write_bytes(b"")
    attempt(room, outcome="running", seconds=12.0, images=6)
    with room.lock():
        assert listed(out, "new").progress == Progress(6, 12, left=12.0)


def test_a_failed_run_says_why_and_one_not_begun_is_stopped(out: Path) -> None:
    room = change(out, "new", evaluate="pending", diffusion="failed")
    attempt(room, outcome="failed", error="loss/flow is not finite")
    run = listed(out, "new")
    assert (run.state, run.stage, run.problem) == ("failed", "diffusion", "loss/flow is not finite")
    room = change(out, "other", evaluate="pending")
    shutil.rmtree(room.path)
    assert (listed(out, "other").state, listed(out, "other").stage) == ("stopped", "evaluate")


def test_a_damaged_run_is_listed_and_hides_no_other(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "bad").mkdir()
    (out / "bad/run.json").write_text("{")
    assert main(["runs", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "bad   damaged" in shown
    assert "tiny  done" in shown
    assert "2 runs" in shown


def test_looking_changes_nothing_and_a_held_room_stays_held(out: Path) -> None:
    room = change(out, "new", evaluate="pending")
    before = sorted((p, p.lstat().st_mtime_ns) for p in out.rglob("*"))
    list_runs(out)
    assert sorted((p, p.lstat().st_mtime_ns) for p in out.rglob("*")) == before
    with room.lock():
        assert room.is_held()
        assert room.is_held()
    assert not room.is_held()
    os.unlink(room.path / "lock")
    assert not room.is_held()
    assert not (room.path / "lock").exists()


def test_the_list_imports_nothing_heavy(out: Path) -> None:
    change(out, "new", diffusion="pending")
    done = subprocess.run([sys.executable, "-c", LIST, str(out)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_json_has_everything(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--out", str(out), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["name"] == "tiny"
    assert run["state"] == "done"
    assert run["progress"] == {"step": None, "of": None, "left": None}
    assert run["numbers"].keys() == {"reconstruction/psnr"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--json", "--watch"], "give one of the two"), (["--out", "nowhere"], "nowhere: no such folder")],
)
def test_what_cannot_be_listed_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_folder_has_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: no runs yet\n"
    (tmp_path / TRIALS).mkdir()
    assert main(["runs", "--out", str(tmp_path)]) == 0
    assert f"no runs yet; what `gaekit run --try` made is listed by `gaekit runs --out {tmp_path / TRIALS}`" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_shows_whole_names_states_and_progress(width: int) -> None:
    run = Listed(
        "gae_d32", "runs/gae_d32", "running", stage="autoencoder", progress=Progress(123_400, 400_000, 86_400.0),
        numbers={"samples/fid": 2.345678}, size=123_456_789_000,
    )  # fmt: skip
    screen = Console(file=StringIO(), width=width)
    screen.print(make_table(HEAD, [row_of(run)]))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for text in ("gae_d32", "running", "autoencoder", "123,400/400,000", "24 h", "123.5 GB", "fid 2.346"):
        assert text in shown
