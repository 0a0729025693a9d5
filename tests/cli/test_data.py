"""`gaekit data check` finds every file that cannot be read, and tells classes and sizes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from data_helpers import write_folder
from PIL import Image

from gaekit.cli import main
from gaekit.data.survey import Survey, looks, note
from gaekit.errors import BadImage, MachineFailed


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Digits, two of them damaged, and two of other sizes."""
    root = write_folder(tmp_path / "data", 60)
    (root / "3" / "cut.png").write_bytes((root / "3" / "0003.png").read_bytes()[:60])
    (root / "7" / "text.png").write_text("hello")
    Image.new("RGB", (200, 90)).save(root / "1" / "wide.jpg")
    Image.new("RGB", (3, 5)).save(root / "2" / "tiny.bmp")
    return root


def check(pictures: Path, *arguments: str) -> int:
    change = f"dataset={{use: image_folder, root: {pictures}, validation: 0.2}}"
    return main(["data", "check", "quickstart", "--set", change, *arguments])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_unreadable_file_is_named_with_its_reason(
    pictures: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(pictures, "--workers", workers) == 2
    shown = capsys.readouterr()
    assert f"cannot be read: {pictures}/3/cut.png: damaged image" in shown.out
    assert f"cannot be read: {pictures}/7/text.png: not an image of a known kind: it begins with the text 'hello'" in (
        shown.out
    )
    assert "error: 2 of 64 images cannot be read; mend or remove them" in shown.err
    assert "200 x 90 (1/wide.jpg)" in shown.out
    assert "3 x 5 (2/tiny.bmp)" in shown.out


def test_json_tells_the_same_to_a_program(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(pictures, "--json", "--workers", "1") == 2
    found = json.loads(capsys.readouterr().out)
    splits = found["splits"].values()
    assert (found["image_size"], found["classes"]) == (32, list("0123456789"))
    assert sum(split["images"] for split in splits) == 64
    assert sorted(key for split in splits for key in split["unreadable"]) == ["3/cut.png", "7/text.png"]
    files = {name: len(list((pictures / name).iterdir())) for name in found["classes"]}
    files["3"], files["7"] = files["3"] - 1, files["7"] - 1
    assert {name: sum(split["of_class"][name] for split in splits) for name in files} == files
    assert sum(split["smaller_than_image_size"] for split in splits) == 61
    assert {"key": "1/wide.jpg", "width": 200, "height": 90} in [split["largest"] for split in splits]
    assert {"key": "2/tiny.bmp", "width": 3, "height": 5} in [split["smallest"] for split in splits]


def test_whole_data_ends_with_0_and_one_split_may_be_asked_for(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "3" / "cut.png").unlink()
    (pictures / "7" / "text.png").unlink()
    assert check(pictures, "--split", "validation", "--workers", "0", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["splits"]) == ["validation"]
    assert check(pictures, "--workers", "0") == 0
    table = capsys.readouterr().out.splitlines()
    assert table[-11].split() == ["class", "train", "validation"]
    assert sum(int(number) for line in table[-10:] for number in line.split()[1:]) == 62


def test_absent_data_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "nowhere") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


class Odd:
    """Ten images: one is damaged, one kills the process that decodes it."""

    def __init__(self, fatal: int = -1):
        self.fatal = fatal

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 4:
            raise BadImage("4.png: damaged")
        return Image.new("RGB", (10 + index, 20)), index % 2

    def key(self, index: int) -> str:
        return f"{index}.png"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_survey_counts_what_it_is_shown(workers: int) -> None:
    source: Any = Odd()
    survey = Survey(len(source))
    for look in looks(source, workers):
        note(survey, look, source, 15)
    assert survey.unreadable == {"4.png": "4.png: damaged"}
    assert (survey.labels, survey.smaller) == ({0: 4, 1: 5}, 4)
    assert (survey.smallest, survey.largest) == (("0.png", 10, 20), ("9.png", 19, 20))


def test_a_killed_worker_is_the_machines_failure() -> None:
    with pytest.raises(MachineFailed, match="a process that decodes images died"):
        list(looks(Odd(fatal=6), 1))
