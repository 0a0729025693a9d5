"""Every logged scalar of a training stands in its curves once, however often the training was stopped."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from train.test_training import train

from gaekit.store.curves import read_curves
from gaekit.train.curves import CurveWriter


def losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What does not depend on the machine's speed."""
    found = read_curves(folder / "curves.jsonl").scalars
    return {name: points for name, points in found.items() if name.startswith(("loss/", "weighted/", "train/grad"))}


@pytest.mark.parametrize("stop", [3, 13])
def test_stopped_and_resumed_the_curves_are_those_of_a_training_left_alone(tmp_path: Path, stop: int) -> None:
    train(tmp_path / "whole", log_every=1)
    train(tmp_path / "cut", stop=stop, log_every=1)
    assert [step for step, _ in losses(tmp_path / "cut")["loss/flow"]] == list(range(1, stop))
    with (tmp_path / "cut" / "curves.jsonl").open("a") as file:
        file.write('{"step": 99, "seco')  # killed while it wrote
    train(tmp_path / "cut", log_every=1)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    seconds = [value for _, value in read_curves(tmp_path / "cut" / "curves.jsonl").seconds]
    assert len(seconds) == 20
    assert seconds == sorted(seconds)


def test_a_line_that_the_disk_has_no_room_for_is_told_once_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    writer = CurveWriter(tmp_path / "curves.jsonl", 0, told.append)
    writer.log(1, 0.1, {"a": 1.0})
    truncate = Path.open

    def full(self: Path, mode: str = "r", *given: object) -> object:
        if mode != "rb":
            with truncate(self, "ab") as file:
                file.write(b'{"step": 2, "se')  # a part of it had room
            raise OSError(28, os.strerror(28))
        return truncate(self, mode)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", full)
        writer.log(2, 0.2, {"a": 2.0})
        writer.log(3, 0.3, {"a": math.nan})
    assert len(told) == 1
    assert "No space left" in told[0]
    writer.log(4, 0.4, {"a": 4.0})
    writer.close()
    found = read_curves(tmp_path / "curves.jsonl")
    assert [step for step, _ in found.scalars["a"]] == [1, 2, 3, 4]
    assert len(told) == 1


def test_lines_that_could_never_be_written_are_told_as_lost(tmp_path: Path) -> None:
    told: list[str] = []
    writer = CurveWriter(tmp_path / "curves.jsonl", 0, told.append)
    (tmp_path / "curves.jsonl").mkdir()
    writer.log(1, 0.1, {"a": 1.0})
    writer.log(2, 0.2, {"a": 1.0})
    writer.close()
    assert ["cannot be written" in line for line in told] == [True, False]
    assert "2 lines could not be written and are lost" in told[-1]
