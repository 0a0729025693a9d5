"""`runtime.profile` writes a trace of the steps it names and tells where their time went."""

from __future__ import annotations

import gzip
import json
import re
from io import StringIO
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn
from train.test_training import points

from gaekit.parallel import World
from gaekit.recipe.schema import Runtime, Train
from gaekit.store.room import Room
from gaekit.train.progress import Reporter
from gaekit.train.step_times import StepTimes
from gaekit.train.track import Trackers
from gaekit.train.training import Host, Training
from gaekit.values import Loss


def train(
    folder: Path, profile: tuple[int, int], stop: int | None = None, steps: int = 6, times: StepTimes | None = None
) -> str:
    """What a training of a linear network says."""
    said = StringIO()
    host = Host(
        "test", 7, Room(folder), Runtime(profile=profile, save_every=100), torch.device("cpu"),
        Reporter(Console(file=said, width=400)), lambda step: Trackers(), World(), times,
    )  # fmt: skip
    with Training(Train(steps=steps, batch=8, lr=1e-3), {"net": nn.Linear(4, 1)}, host) as training:
        for step, batch in training.steps(points):
            if step.index == stop:
                break
            training.update("net", {"size": Loss(training["net"](batch.x).square().mean())})
    return said.getvalue()


def optimizer_steps(folder: Path, name: str) -> int:
    """How many steps of the optimizer a trace holds."""
    with gzip.open(folder / "profile" / name, "rt") as file:
        events = json.load(file)["traceEvents"]
    return sum(str(event.get("name", "")).startswith("Optimizer.step") for event in events)


def test_the_steps_asked_for_are_traced_and_their_time_told(tmp_path: Path) -> None:
    said = train(tmp_path, (2, 4)).splitlines()
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["steps-2-4.json.gz"]
    assert optimizer_steps(tmp_path, "steps-2-4.json.gz") == 3
    (at,) = (number for number, line in enumerate(said) if "steps-2-4.json.gz" in line)
    lines = said[at + 1 : at + 9]
    found = [re.fullmatch(r" +([\d.]+)% +([\d.]+) ms +(\d+) x  (\S.*) \(CPU\)", line) for line in lines]
    shares = [float(row[1]) for row in found if row]
    assert len(shares) == 8
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.5


def test_a_training_that_is_left_or_ends_before_the_last_has_what_it_took(tmp_path: Path) -> None:
    train(tmp_path / "left", (2, 6), stop=4)
    assert optimizer_steps(tmp_path / "left", "steps-2-4.json.gz") == 3
    train(tmp_path / "short", (5, 100))
    assert optimizer_steps(tmp_path / "short", "steps-5-6.json.gz") == 2


def test_where_none_of_the_steps_is_taken_that_is_said(tmp_path: Path) -> None:
    said = train(tmp_path, (7, 9))
    assert "nothing is profiled: test takes steps 1 to 6, and those wanted are 7 to 9" in said
    assert "nothing is profiled: test takes steps 7 to 8" in train(tmp_path, (2, 4), steps=8)
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_cannot_be_written_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("in the way")
    said = train(tmp_path, (2, 3))
    assert "the trace was not written" in said
    assert "(CPU)" in said


def test_a_training_that_is_only_measured_is_not_profiled(tmp_path: Path) -> None:
    train(tmp_path, (2, 3), times=StepTimes(4, 100.0))
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("steps", [(5, 5), (6, 5), (0, 5), (1, 2, 3)])
def test_steps_that_are_no_range_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        Runtime(profile=steps)
