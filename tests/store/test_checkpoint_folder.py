"""What stands on disk of checkpoints is looked at without leaving their folder, and without waiting for ever."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gaekit.store.checkpoints import MANIFEST, CheckpointFolder


def checkpoint(folder: Path, names: list[str]) -> CheckpointFolder:
    path = folder / "step-00000001"
    path.mkdir(parents=True)
    (path / MANIFEST).write_text(json.dumps({"sha256": dict.fromkeys(names, "0" * 64)}))
    return CheckpointFolder(folder)


@pytest.mark.parametrize("name", ["../../../outside", "a/b"])
def test_a_group_named_out_of_its_folder_is_damage(tmp_path: Path, name: str) -> None:
    found = checkpoint(tmp_path / "deep" / "er", [name])
    (tmp_path / "outside.safetensors").write_text("somebody's")
    assert "is not a plain file name" in found.damage(1)[0]


def test_a_pipe_is_damage_and_not_waited_on(tmp_path: Path) -> None:
    found = checkpoint(tmp_path, ["weights"])
    os.mkfifo(found.path(1) / "weights.safetensors")
    assert "is a pipe" in found.damage(1)[0]
    (found.path(1) / MANIFEST).unlink()
    os.mkfifo(found.path(1) / MANIFEST)
    assert "is a pipe" in found.damage(1)[0]
