"""A training that is shorter than one before it in the same room says where it starts, and leaves that one alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from event_helpers import read_events
from recipe_helpers import tiny_recipe

from gaekit.cli import main
from gaekit.pipeline.view import View
from gaekit.store.curves import read_curves
from gaekit.store.room import Room
from gaekit.train.training import Training

TINY = tiny_recipe("""
diffusion: {train: {steps: 12}}
runtime: {save_every: 2, log_every: 1, threads: 1}
""")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def run(name: str, steps: int, *settings: str, out: str = "runs") -> int:
    options = [part for setting in (f"diffusion.train.steps={steps}", *settings) for part in ("--set", setting)]
    return main(["run", "tiny.yaml", "--out", out, "--name", name, *options])


def room(name: str, out: str = "runs") -> Room:
    entry = View(Path(out, name)).record["stages"]["diffusion"]
    return Room(Path(out, entry["room"]), entry["subfolder"])


def curve(of: Room) -> list[int]:
    events = read_events(of.trackers / "tensorboard")
    return [point.step for point in events.Scalars("train/lr/denoiser")]


def logged(of: Room) -> list[int]:
    return [step for step, _ in read_curves(of.curves).scalars["train/lr/denoiser"]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_after_pruning_it_starts_at_0_says_so_and_writes_over_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("long", 12) == 0
    long = room("long")
    before = contents(long.path / "checkpoints") | contents(long.path / "trackers")
    capsys.readouterr()
    main(["plan", "tiny.yaml", "--name", "short", "--set", "diffusion.train.steps=6"])
    line = "no checkpoint at or before step 6 is left, starts at 0; the longer training in "
    line += f"{long.path}, saved up to step 12, stays as it is"
    assert f"diffusion: {line}" in capsys.readouterr().out
    assert run("short", 6) == 0
    assert line in capsys.readouterr().err
    assert contents(long.path / "checkpoints") | contents(long.path / "trackers") == before
    assert curve(long) == list(range(1, 13))
    short = room("short")
    assert short.path == long.path
    assert curve(short) == logged(short) == list(range(1, 7))
    assert logged(long) == list(range(1, 13))
    main(["checkpoints", "ls", "runs/short"])
    assert "6" in capsys.readouterr().out.split("diffusion")[-1].split()
    assert run("fresh", 6, out="elsewhere") == 0
    assert (short.out / "denoiser.safetensors").read_bytes() == (
        room("fresh", "elsewhere").out / "denoiser.safetensors"
    ).read_bytes()


def test_it_goes_on_from_the_checkpoint_that_is_left_and_by_itself_after_a_stop(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update, seen = Training.update, list[int]()

    def stopping(self: Training, name: str, losses: object) -> None:
        if self.host.stage == "diffusion":
            seen.append(self.at)
            if len(seen) == 4:
                self.checkpoints.close()
                raise KeyboardInterrupt
        update(self, name, losses)  # type: ignore[arg-type]

    assert run("long", 20, "runtime.keep_every=8") == 0
    long = room("long")
    before = contents(long.path / "checkpoints") | contents(long.path / "trackers")
    monkeypatch.setattr(Training, "update", stopping)
    assert run("short", 14) == 130
    assert "diffusion: starts at step 8; the longer training" in capsys.readouterr().err
    assert seen == [8, 9, 10, 11]
    assert run("short", 14) == 0
    assert "the longer training" not in capsys.readouterr().err
    assert seen[4:] == [10, 11, 12, 13]
    assert contents(long.path / "checkpoints") | contents(long.path / "trackers") == before
    assert room("short").checkpoints == long.path / "step-14/checkpoints"
    assert (min(curve(room("short"))), max(curve(room("short")))) == (9, 14)
    assert logged(room("short")) == list(range(1, 15))
    assert run("longest", 22) == 0  # goes on where the longest has come to
    assert logged(room("longest")) == list(range(1, 23))
    assert seen[8:] == [20, 21]
