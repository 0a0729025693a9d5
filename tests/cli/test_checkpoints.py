"""`gaekit checkpoints`: a run's saves, why each is there, and which file is not what was saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gaekit.cli import main
from gaekit.train.checkpoint import Checkpoints

Capture = pytest.CaptureFixture[str]


def write_record(run: Path, rooms: dict[str, str | None]) -> None:
    entry = {"status": "done", "identity": "x", "artifact": "x", "subfolder": ""}
    stages = {name: entry | {"room": room} for name, room in rooms.items()}
    (run / "run.json").write_text(json.dumps({"stages": stages}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which two stages have trained, and one was taken from elsewhere."""
    rooms = {"semantic": None, "autoencoder": "store/autoencoder/0123", "diffusion": "store/diffusion/4567"}
    path = tmp_path / "runs" / "mine"
    path.mkdir(parents=True)
    write_record(path, rooms)
    for stage, steps in (("autoencoder", (10, 20, 30, 40)), ("diffusion", (5,))):
        with Checkpoints(tmp_path / "runs" / str(rooms[stage]) / "checkpoints", keep_every=20) as saved:
            for step in steps:
                saved.save(step, {}, {"weights": {"a": torch.ones(1000)}, "ema": {}})
    return path


def folder(run: Path, step: int) -> Path:
    return run.parent / "store/autoencoder/0123/checkpoints" / f"step-{step:08d}"


def test_ls_tells_why_each_is_kept(run: Path, capsys: Capture) -> None:
    assert main(["checkpoints", "ls", str(run)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["stage", "step", "size", "age", "kept", "complete"]
    assert [(line[0], line[1], *line[6:]) for line in lines[1:4]] == [
        ("autoencoder", "20", "every", "yes"),
        ("autoencoder", "30", "last", "yes"),
        ("autoencoder", "40", "last,", "every", "yes"),
    ]
    assert lines[4][:2] == ["diffusion", "5"]
    assert lines[-1][:2] == ["4", "checkpoints,"]


def test_ls_for_programs(run: Path, capsys: Capture) -> None:
    (folder(run, 40) / "ema.safetensors").unlink()
    assert main(["checkpoints", "ls", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(c["stage"], c["step"], c["kept"]) for c in found][:2] == [
        ("autoencoder", 20, ["every"]),
        ("autoencoder", 30, ["last"]),
    ]
    assert found[2]["damage"] == ["ema.safetensors is missing"]
    assert found[0]["bytes"] == sum(file.stat().st_size for file in folder(run, 20).iterdir())
    assert Path(found[0]["path"]) == folder(run, 20)


def test_verify_ends_with_0_where_all_is_as_saved(run: Path, capsys: Capture) -> None:
    assert main(["checkpoints", "verify", str(run)]) == 0
    out = capsys.readouterr().out
    assert "intact: autoencoder step 40, 3 files, " in out
    assert out.endswith("4 checkpoints, 0 damaged\n")


def test_verify_names_every_damaged_file_and_ends_with_2(run: Path, capsys: Capture) -> None:
    flipped, cut = folder(run, 20) / "weights.safetensors", folder(run, 30) / "weights.safetensors"
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-1])
    (folder(run, 30) / "ema.safetensors").unlink()
    (folder(run, 40) / "checkpoint.json").unlink()
    assert main(["checkpoints", "verify", str(run)]) == 2
    out = capsys.readouterr().out
    assert f"damaged: {flipped.parent}: weights.safetensors is not what was saved (its sha256 differs)" in out
    assert f"damaged: {cut.parent}: weights.safetensors has {len(data) - 1} bytes, {len(data)} were saved" in out
    assert f"damaged: {cut.parent}: ema.safetensors is missing" in out
    assert f"damaged: {folder(run, 40)}: checkpoint.json is missing" in out
    assert out.endswith("4 checkpoints, 3 damaged\n")
    assert main(["checkpoints", "verify", str(run), "--json"]) == 2
    assert [len(c["damage"]) for c in json.loads(capsys.readouterr().out)] == [1, 2, 1, 0]


def test_a_run_that_has_saved_nothing_and_a_folder_that_is_none(run: Path, tmp_path: Path, capsys: Capture) -> None:
    write_record(run, {"latents": "store/latents/89ab"})
    assert main(["checkpoints", "ls", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: no checkpoints\n"
    assert main(["checkpoints", "verify", str(tmp_path)]) == 2
    assert "not a run (run.json is missing)" in capsys.readouterr().err
