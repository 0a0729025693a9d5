"""Trackers that fail cost a training nothing but their own curves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, TrackedStage, Tracker
from gaekit.train.track import Trackers


class Noting(Tracker):
    """Keeps what it is given; fails at a step."""

    name = "noting"
    Config = ComponentConfig

    def __init__(self, fails_at: int | None = None, error: Exception | None = None):
        stage = TrackedStage("run", "diffusion", {})
        super().__init__(ComponentConfig(use="noting"), folder=Path(), purge_step=0, stage=stage)
        self.fails_at, self.error, self.steps, self.closed = fails_at, error or OSError(28, "No space left"), [], 0

    def log(self, step: int, scalars: dict[str, float], images: dict[str, Tensor]) -> None:  # type: ignore[override]
        if step == self.fails_at:
            raise self.error
        self.steps.append(step)

    def close(self) -> None:
        self.closed += 1
        if self.fails_at == -1:
            raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyError("x"), GaekitError("gone"), ValueError()])
def test_one_that_fails_is_told_of_once_and_left_out(error: Exception) -> None:
    said: list[str] = []
    broken, sound = Noting(2, error), Noting()
    trackers = Trackers([("broken", lambda: broken), ("sound", lambda: sound)], said.append)
    for step in range(5):
        trackers.log(step, {"a": 1.0}, {"i": torch.zeros(3, 1, 1)})
    trackers.close()
    assert sound.steps == [0, 1, 2, 3, 4]
    assert (broken.steps, broken.closed, sound.closed) == ([0, 1], 0, 1)
    assert len(said) == 1
    assert said[0].startswith("warning: tracker 'broken' fails and is left out from now on")
    assert said[0].endswith(str(error) or "ValueError")


def test_one_that_fails_to_close_keeps_no_other_from_closing() -> None:
    said: list[str] = []
    broken, sound = Noting(-1), Noting()
    Trackers([("broken", lambda: broken), ("sound", lambda: sound)], said.append).close()
    assert sound.closed == 1
    assert len(said) == 1


def test_one_that_cannot_be_made_is_left_out_unless_the_user_can_mend_it() -> None:
    said: list[str] = []

    def fails() -> Tracker:
        raise OSError(28, "No space left")

    def refuses() -> Tracker:
        raise GaekitError("install it")

    Trackers([("broken", fails)], said.append).log(1, {}, {})
    assert len(said) == 1
    with pytest.raises(GaekitError, match="install it"):
        Trackers([("refuses", refuses)], said.append)
