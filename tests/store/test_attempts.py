"""What attempts took is read as it was written; what was killed is closed by whoever comes next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gaekit.errors import ArtifactError
from gaekit.store.attempts import Attempt, killed, read_attempts, write_attempts
from gaekit.store.curves import line_of
from gaekit.store.room import Room

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def attempt(**changes: object) -> Attempt:
    told: dict[str, object] = {
        "started": BEGAN.isoformat(), "seconds": 10.0, "outcome": "running", "device": "a card", "cuda": True,
        "processes": 2, "threads": 4, "precision": "bf16", "first_step": 100, "last_step": 110, "batch": 8,
        "images": 80, "flop": 1000, "flop_by_network": {"denoiser": 700, "teacher": 300},
    }  # fmt: skip
    return Attempt.model_validate(told | changes)


def test_attempts_come_back_as_they_were_written(tmp_path: Path) -> None:
    told = [attempt(), attempt(outcome="done", joules=3.5, joules_of="NVML", length=200), attempt(first_step=None)]
    write_attempts(tmp_path / "attempts.jsonl", told)
    assert read_attempts(tmp_path / "attempts.jsonl") == told
    assert (tmp_path / "attempts.jsonl").read_text().count("\n") == 3
    assert read_attempts(tmp_path / "elsewhere.jsonl") == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    write_attempts(path, [attempt()])
    for line in ("{", "[]", '{"started": 1}', attempt().model_dump_json().replace('"running"', '"won"')):
        path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
        with pytest.raises(ArtifactError, match=r"attempts\.jsonl:2: damaged"):
            read_attempts(path)


def test_a_killed_attempt_came_as_far_as_its_curves_tell() -> None:
    closed = killed(attempt(), 125, BEGAN + timedelta(seconds=40))
    assert (closed.outcome, closed.seconds, closed.steps, closed.images) == ("killed", 40.0, 25, 200)
    assert (closed.flop, closed.flop_by_network) == (2500, {"denoiser": 1750, "teacher": 750})
    assert closed.device_seconds == 80.0
    same = killed(attempt(), 90, BEGAN - timedelta(seconds=1))  # of the attempt before
    assert same == attempt(outcome="killed")


def test_a_room_closes_what_nobody_closed(tmp_path: Path) -> None:
    room = Room(tmp_path)
    write_attempts(room.attempts, [attempt(outcome="failed"), attempt()])
    room.curves.write_bytes(line_of(100, 1.0, {}) + line_of(120, 1.5, {"loss/l1": 0.5}))
    first, last = room.ended_attempts()
    assert first == attempt(outcome="failed")
    assert (last.outcome, last.last_step) == ("killed", 120)
    assert last.seconds > 10.0  # the curves were written just now
    assert [a.outcome for a in read_attempts(room.attempts)] == ["failed", "running"]  # it only reads
