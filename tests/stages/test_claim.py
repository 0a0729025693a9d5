"""A complete room needs no lock; one in use is waited for, with a line, and a signal ends that at once."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from gaekit.parallel import World
from gaekit.stages import claim as module
from gaekit.stages.claim import claim
from gaekit.store.room import Room, RoomInUse
from gaekit.train.progress import Reporter


def reporter() -> Reporter:
    return Reporter(Console(file=io.StringIO(), width=1000))


def told(by: Reporter) -> str:
    return by.console.file.getvalue()  # type: ignore[attr-defined]


def test_a_complete_room_is_read_while_another_process_holds_it(tmp_path: Path) -> None:
    ten, twenty = Room(tmp_path, "step-10"), Room(tmp_path, "step-20")
    ten.finish({"steps": 10})
    with twenty.lock(), claim(ten, "diffusion", World(), reporter(), wait=False) as done:
        assert done == {"steps": 10}


def test_what_the_holder_completes_is_found_and_the_line_says_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    room, says, began = Room(tmp_path / "room"), reporter(), threading.Event()

    def other() -> None:
        with room.lock():
            began.set()
            time.sleep(0.3)
            room.finish({"made by": "the other"})

    thread = threading.Thread(target=other)
    thread.start()
    began.wait()
    with claim(room, "diffusion", World(), says, wait=True) as done:
        assert done == {"made by": "the other"}
    thread.join()
    assert f"diffusion: waiting for {room.path}, in use by process {os.getpid()} on " in told(says)
    assert " for 0 s;" in told(says)
    assert told(says).count("\n") == 1


def test_a_room_left_unfinished_is_held_after_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    room, began = Room(tmp_path / "room"), threading.Event()

    def other() -> None:
        with room.lock():
            began.set()
            time.sleep(0.2)

    thread = threading.Thread(target=other)
    thread.start()
    began.wait()
    with claim(room, "diffusion", World(), reporter(), wait=True) as done:
        assert done is None
        thread.join()
        assert room.holder() is not None
    assert room.holder() is None


def test_without_waiting_it_is_refused(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with (
        room.lock(),
        pytest.raises(RoomInUse, match="in use by process"),
        claim(room, "diffusion", World(), reporter(), wait=False),
    ):
        pass


PROGRAM = """
import sys
from pathlib import Path
from gaekit.errors import GaekitError
from gaekit.parallel import World
from gaekit.stages.claim import claim
from gaekit.store.room import Room
from gaekit.train.progress import Reporter
try:
    with claim(Room(Path(sys.argv[1])), "diffusion", World(), Reporter(), wait=True):
        pass
except GaekitError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 85), (signal.SIGUSR1, 85)])
def test_a_signal_ends_the_wait_at_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    room = Room(tmp_path / "room")
    command = [sys.executable, "-c", PROGRAM, str(room.path)]
    with room.lock(), subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as waiting:
        assert waiting.stderr is not None
        assert "waiting for" in waiting.stderr.readline()
        start = time.monotonic()
        waiting.send_signal(number)
        assert waiting.stdout is not None
        assert "stopped while waiting for" in waiting.stdout.readline()
        assert time.monotonic() - start < 10
        assert waiting.wait(60) == code


def two_ranks(room: Room) -> subprocess.Popen[str]:
    """Two processes that claim the room, once one of them has said that it waits."""
    program = str(Path(__file__).with_name("claim_program.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", program]
    started = subprocess.Popen([*command, str(room.path)], stdout=-1, stderr=-1, text=True)
    assert started.stderr is not None
    assert any("waiting for" in line for line in started.stderr)
    return started


def test_all_ranks_wait_with_the_first_and_have_what_it_finds(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with room.lock():
        ranks = two_ranks(room)
        room.finish({"steps": 4})
    out, err = ranks.communicate(timeout=120)
    assert "rank 0 has {'steps': 4}" in out
    assert "rank 1 has {'steps': 4}" in out
    assert "waiting" not in err  # told once, above


def test_a_signal_to_any_rank_ends_the_wait_of_all(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with room.lock():
        ranks = two_ranks(room)
        assert ranks.stdout is not None
        second = next(
            int(found[1]) for line in ranks.stdout if (found := re.search(r"rank 1 .*?(\d+)$", line.rstrip()))
        )
        os.kill(second, signal.SIGTERM)
        out, _ = ranks.communicate(timeout=120)
    assert f"rank 0 ends with 85: diffusion: stopped while waiting for {room.path}" in out
    assert "rank 1 ends with 85, told by rank 0" in out
