"""On a real disk that fills or turns read-only (a tmpfs in a mount namespace of its own) nothing good is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "full_disk_program.py"
MOUNTED = ("sh", "-c", 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"')
NAMESPACES = (("unshare", "--map-root-user", "--mount"), ("unshare", "--mount"))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program will have a disk of 2 MB."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def namespace(disk: Path) -> tuple[str, ...]:
    """The command that makes a namespace of mounts, by a user's right or by root's."""
    reason = "there is no unshare"
    for command in NAMESPACES if shutil.which("unshare") else ():
        tried = subprocess.run([*command, *MOUNTED, disk, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return command
        reason = tried.stderr.strip()
    pytest.skip(f"no file system can be mounted here: {reason}")


@pytest.fixture(scope="module")
def found(disk: Path, namespace: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program says of each scenario."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    command = [*namespace, *MOUNTED, disk, sys.executable, PROGRAM, disk, elsewhere]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not list(disk.iterdir()), "the disk was to be one of the program's own"
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def test_a_training_whose_disk_fills_keeps_its_last_checkpoint_and_goes_on_bit_for_bit(
    disk: Path, found: dict[str, Any]
) -> None:
    result = found["fills_up"]
    checkpoints = disk / "room/checkpoints"
    curves = [text for text in result["said"] if "curves.jsonl" in text]
    saves = [text for text in result["said"] if text not in curves]
    assert curves[0].startswith(f"warning: {disk / 'room/curves.jsonl'} cannot be written (No space left on device)")
    assert [text.endswith("lines could not be written and are lost") for text in curves] == [False, True]
    assert [text.split("; ", 1)[1] for text in saves] == [
        f"the checkpoint of step {step} is skipped, the training goes on (that of step 5 is intact)"
        for step in (10, 15)
    ]
    assert result["error"].startswith(f"{checkpoints}: a checkpoint needs 359.2 kB, 0 B are free; ")
    assert "; step 20 is not saved (3 saves in a row have failed), that of step 5 is intact; " in result["error"]
    assert result["error"].endswith("free some space and run the same command again")
    assert result["full"] == [[5], [[]]]
    assert result["left"] == ["step-00000005"]
    assert result["again"] == [15, 20]
    assert result["same"]


def test_a_disk_that_fills_in_the_middle_of_a_write_costs_that_checkpoint_alone(
    disk: Path, found: dict[str, Any]
) -> None:
    result = found["fills_up_during_a_write"]
    [(number, written, wanted)] = result["failed"]
    assert number == errno.ENOSPC
    assert 0 < written < wanted
    assert len(result["said"]) == 1
    assert "a checkpoint needs " in result["said"][0]
    assert "the checkpoint of step 10 is skipped, the training goes on (that of step 5 is intact)" in result["said"][0]
    assert result["steps"] == [15, 20]
    assert result["same"]


def test_a_folder_that_turns_read_only_is_named_and_what_was_saved_stays(disk: Path, found: dict[str, Any]) -> None:
    result = found["turns_read_only"]
    begun, new, view = result["errors"]
    why = "cannot be written (Read-only file system); "
    assert begun.startswith(f"{disk / 'room/checkpoints'}: {why}step 20 is not saved (3 saves in a row have failed), ")
    assert begun.endswith("that of step 5 is intact; check the disk and the folder's permissions, and run the same comm"
                          "and again")  # fmt: skip
    assert new.startswith(f"{disk / 'other/curves.jsonl'}: {why}")
    assert view.startswith(f"{disk / 'runs/new/recipe.yaml'}: {why}")
    assert result["intact"] == [5]
    assert result["same"]


def test_curves_that_find_no_space_are_left_out_and_tensors_say_so(disk: Path, found: dict[str, Any]) -> None:
    result = found["is_full_for_tensors_and_curves"]
    assert len(result["said"]) == 1
    assert result["said"][0].startswith("warning: tracker 'tensorboard' fails and is left out from now on")
    assert os.strerror(errno.ENOSPC) in result["said"][0]
    assert result["error"].startswith(f"{disk}/room/chunk.safetensors: the disk is full")
    assert result["left"] == []
