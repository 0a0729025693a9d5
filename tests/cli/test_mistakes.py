"""Mistakes outside of the recipe: each ends with its code and a line, without a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gaekit.cli import main, unusable

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder but for a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("in the way")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["run", "smoke", "--out", "file.txt", "--until", "semantic"],
        ["run", "smoke", "--out", "file.txt/runs", "--until", "semantic"],
        ["recipes", "copy", "smoke", "file.txt/mine.yaml"],
        ["schema", "--out", "file.txt/schema.json"],
    ],
)
def test_a_file_where_a_folder_is_wanted_is_named(command: list[str], capsys: Capture) -> None:
    assert main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: file.txt")
    assert "Traceback" not in last


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_stage_that_the_recipe_has_not_is_refused(command: str, elsewhere: Path, capsys: Capture) -> None:
    assert main([command, "smoke", "--until", "finish"]) == 2
    assert "--until finish: this recipe has no such stage; it has: semantic, " in capsys.readouterr().err
    assert not (elsewhere / "runs" / "smoke").exists()


def test_a_kind_of_file_that_samples_cannot_be_is_refused_before_the_run_is_read(capsys: Capture) -> None:
    assert main(["sample", "no_run", "--out", "a.jpg"]) == 2
    assert "'.jpg' is not known; give a .png, a .npz, or a folder" in capsys.readouterr().err


def test_the_schema_is_written_into_a_new_folder(elsewhere: Path) -> None:
    assert main(["schema", "--out", "new/folder/schema.json"]) == 0
    assert (elsewhere / "new" / "folder" / "schema.json").stat().st_size > 1000


def test_what_the_machine_refuses_ends_with_2_or_4_and_faults_of_ours_with_a_traceback() -> None:
    def of(number: int, *path: str) -> int | None:
        return unusable(OSError(number, os.strerror(number), *path))

    assert of(errno.EACCES, "folder") == of(errno.EROFS, "folder") == 2
    assert of(errno.ENOSPC, "folder") == 4
    assert of(errno.ENOENT, "folder") is None
    assert of(errno.EACCES) is None
