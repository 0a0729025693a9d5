"""Rooms belong to one process, and what stands in one that others may write to leads nowhere else."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gaekit.errors import GaekitError
from gaekit.store.room import Room, RoomInUse


def test_a_room_belongs_to_one_process_and_is_free_when_it_ends(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    use = f"with Room(Path({str(room.path)!r})).lock(): pass"
    code = f"from gaekit.store.room import Room; from pathlib import Path\n{use}"
    with room.lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"in use by process {os.getpid()}" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_room_is_free_when_its_process_was_killed_though_a_child_lives_on(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    code = f"""
import os, time
from pathlib import Path
from gaekit.store.room import Room
with Room(Path({str(room.path)!r})).lock():
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # it lives
        try:
            with room.lock():
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_still_holds_after_a_child_was_forked_and_ended(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from gaekit.store.room import Room
room = Room(Path({str(tmp_path / "room")!r}))
with room.lock():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with room.lock():
        print("not held")
"""
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by process" in tried.stderr
    assert tried.stdout == ""


def test_who_takes_a_room_removes_what_a_killed_process_left_half_written_there(tmp_path: Path) -> None:
    room = Room(tmp_path, "step-4")
    whole = [tmp_path / "checkpoints/step-00000004/weights.safetensors", room.out / "part"]
    halves = [room.out / ".samples.npz.17.part", tmp_path / "checkpoints/.step-00000006.part/ema.safetensors"]
    for file in (*whole, *halves):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    with room.lock():
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*whole, tmp_path / "lock"])


def test_rooms_are_done_a_tag_at_a_time(tmp_path: Path) -> None:
    ten, twenty = Room(tmp_path, "step-10"), Room(tmp_path, "step-20")
    with ten.lock():
        ten.finish({"steps": 10})
    assert ten.done() == {"steps": 10}
    assert twenty.done() is None
    with twenty.lock(), pytest.raises(GaekitError), Room(tmp_path).lock():
        pass


def test_a_lock_says_who_holds_it_where_and_for_how_long(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    assert room.holder() is None
    with room.lock(), pytest.raises(RoomInUse, match=rf"process {os.getpid()} on \S+ for \d+ s"), room.lock():
        pass
    assert room.holder() is None


@pytest.mark.parametrize("how", ["link", "hard link", "file", "pipe", "folder"])
def test_what_is_no_lock_is_refused_and_left_as_it_is(tmp_path: Path, how: str) -> None:
    other, room = tmp_path / "notes.txt", Room(tmp_path / "room")
    other.write_text("mine")
    room.path.mkdir()
    lock = room.path / "lock"
    make = {
        "link": lambda: lock.symlink_to(other),
        "hard link": lambda: lock.hardlink_to(other),
        "file": lambda: lock.write_text("mine"),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lambda: lock.mkdir(),
    }
    make[how]()
    with pytest.raises(GaekitError, match=r"lock"), room.lock():
        pass
    assert other.read_text() == "mine"
    if how == "file":
        assert lock.read_text() == "mine"


def test_who_only_asks_for_the_holder_opens_no_link(tmp_path: Path) -> None:
    other, room = tmp_path / "empty.txt", Room(tmp_path / "room")
    other.write_text("")
    room.path.mkdir()
    (room.path / "lock").symlink_to(other)
    with pytest.raises(GaekitError, match="is no lock of gaekit's"):
        room.holder()


@pytest.mark.parametrize("place", ["", "stage", "stage/room", "stage/room/checkpoints", "stage/room/step-4"])
def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "stage/room").mkdir(parents=True)
    half = elsewhere / ".their.part"
    half.write_text("")
    store = tmp_path / "store"
    (store / place).parent.mkdir(parents=True, exist_ok=True)
    (store / place).symlink_to(elsewhere)
    room = Room(store / "stage/room", "step-4")
    if place == "":  # the whole store may stand on another disk
        with room.lock():
            assert (elsewhere / "stage/room/lock").exists()
    else:
        with pytest.raises(GaekitError, match="is a link"), room.lock():
            pass
        assert not list(elsewhere.rglob("lock"))
    assert half.exists()


def test_a_half_that_is_a_link_goes_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    theirs, room = tmp_path / "theirs", Room(tmp_path / "room")
    theirs.mkdir()
    (theirs / ".x.part").write_text("")
    (room.path / "latents").mkdir(parents=True)
    (room.path / "latents/.y.part").symlink_to(theirs)
    with room.lock():
        assert not (room.path / "latents/.y.part").is_symlink()
    assert (theirs / ".x.part").exists()


def test_who_is_refused_touches_no_file_of_the_holder(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with room.lock():
        live = room.path / f".weights.{os.getpid()}.part"
        live.write_text("")
        with pytest.raises(RoomInUse), room.lock():
            pass
        assert live.exists()


def test_a_disk_without_locks_is_named_and_nobody_is_accused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: Any, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    expected = r"room: this disk \(\S+ at /\S*\) has no file locks \(Function not implemented\)"
    with pytest.raises(GaekitError, match=expected) as raised, Room(tmp_path / "room").lock():
        pass
    assert not isinstance(raised.value, RoomInUse)


def test_who_gets_the_lock_of_a_room_that_was_removed_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, flock = Room(tmp_path / "room"), fcntl.flock
    room.describe({})

    def removing(file: Any, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        with room.lock():  # another process is quicker by a moment
            room.remove()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removing)
    with room.lock():
        assert (room.path / "lock").exists()
        assert room.holder() is not None


def test_half_a_room_removed_is_no_complete_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path / "room", "step-4")
    room.describe({})
    room.finish({})
    (room.out / "denoiser.safetensors").write_text("")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gaekit.store.room.remove", killed)
    with pytest.raises(KeyboardInterrupt), room.lock():
        room.remove()
    assert room.done() is None
    assert room.is_one
    monkeypatch.undo()
    with room.lock():
        room.remove()
    assert not room.path.exists()


def test_a_folder_that_holds_something_else_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "empty/step-4").mkdir(parents=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/thesis.tex").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    assert Room(tmp_path / "empty").is_one
    assert not Room(tmp_path / "theirs").is_one
    assert not Room(tmp_path / "link").is_one
