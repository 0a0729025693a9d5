"""Saving in the background: contents are those of the moment of saving, failures are loud, halves bear no name."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from gaekit.errors import MachineFailed
from gaekit.store import checkpoints as stored
from gaekit.store.dtypes import DTYPE_NAMES
from gaekit.train import checkpoint
from gaekit.train.checkpoint import Checkpoints
from gaekit.train.snapshot import Snapshot

SLOW = 0.5


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_SECONDS", 0.01)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Snapshot.write

    def slowly(self: Snapshot, path: Path) -> str:
        time.sleep(SLOW)
        return write(self, path)

    monkeypatch.setattr(Snapshot, "write", slowly)


def failing(monkeypatch: pytest.MonkeyPatch, *outcomes: OSError | None) -> None:
    """What happens at each attempt to write, in turn; the last one for ever."""
    write, left = Snapshot.write, list(outcomes)

    def one(self: Snapshot, path: Path) -> str:
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if outcome is not None:
            path.write_bytes(b"half")
            raise outcome
        return write(self, path)

    monkeypatch.setattr(Snapshot, "write", one)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def groups(value: float, size: int = 1000) -> dict[str, dict[str, torch.Tensor]]:
    return {"weights": {"net/a": torch.full((size,), value), "net/step": torch.tensor(value)}}


def test_files_are_read_by_safetensors_whatever_the_types_and_shapes(tmp_path: Path) -> None:
    whole = torch.arange(24).reshape(2, 3, 4)
    # fp8 and complex numbers are compared as bytes: torch.equal knows not all of them
    tensors = {str(dtype): whole.to(dtype) for dtype in DTYPE_NAMES if not dtype.is_complex}
    tensors |= {"empty": torch.zeros(0, 3), "number": torch.tensor(3.5), "turned": whole.float().permute(2, 0, 1)}
    tensors |= {"complex": torch.complex(whole.float(), -whole.float()), "größe": torch.ones(1)}
    snapshot = Snapshot()
    snapshot.take(tensors)
    digest = snapshot.write(tmp_path / "file")
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].shape == tensor.shape
        assert read[name].dtype == tensor.dtype
        assert read[name].reshape(-1).tolist() == tensor.reshape(-1).tolist()
    shasum = subprocess.run(["sha256sum", tmp_path / "file"], capture_output=True, text=True, check=True)
    assert shasum.stdout.split()[0] == digest
    assert snapshot.size == (tmp_path / "file").stat().st_size


def test_a_type_without_a_name_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"odd: a tensor of torch\.complex128 cannot be saved"):
        Checkpoints(tmp_path).save(1, {}, {"weights": {"odd": torch.zeros(2, dtype=torch.complex128)}})


def test_training_goes_on_while_a_slow_disk_writes_what_was_there_at_save(tmp_path: Path, slow: None) -> None:
    weights = groups(1.0)
    with Checkpoints(tmp_path) as saved:
        start = time.perf_counter()
        saved.save(1, {"seconds": 1.5}, weights)
        assert time.perf_counter() - start < SLOW / 2
        steps = 0
        while not saved.path(1).exists():
            weights["weights"]["net/a"] += 1  # as an optimizer does, in place
            steps += 1
            time.sleep(0.001)
        assert steps > 20
    loaded = saved.latest(1)
    assert loaded is not None
    assert loaded.state == {"seconds": 1.5}
    assert torch.equal(loaded.groups["weights"]["net/a"], torch.ones(1000))
    assert loaded.groups["weights"]["net/step"].shape == ()


def test_a_save_that_comes_too_early_waits_and_both_are_whole(tmp_path: Path, slow: None) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {}, groups(1.0))
        saved.save(2, {}, groups(2.0))
        assert saved.steps() == [1]
    assert [saved.load(step).groups["weights"]["net/a"][0] for step in (1, 2)] == [1.0, 2.0]


def test_a_required_save_is_on_disk_when_it_returns(tmp_path: Path, slow: None) -> None:
    Checkpoints(tmp_path).save(1, {}, groups(1.0), required=True)
    assert Checkpoints(tmp_path).steps() == [1]


def test_memory_is_reused_and_follows_a_change_of_size(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {}, groups(1.0))
        first = saved._copies["weights"]._buffer.data_ptr()
        saved.save(2, {}, groups(2.0))
        assert saved._copies["weights"]._buffer.data_ptr() == first
        saved.save(3, {}, groups(3.0, size=10))
    assert torch.equal(saved.load(3).groups["weights"]["net/a"], torch.full((10,), 3.0))


def test_the_last_ones_stay_and_those_at_multiples_for_good(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=2, keep_every=6) as saved:
        for step in range(2, 21, 2):
            saved.save(step, {}, groups(step))
    assert saved.steps() == [6, 12, 18, 20]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in saved.steps()]
    assert [s.kept for s in saved.stored()] == [("every",), ("every",), ("last", "every"), ("last",)]


def test_a_write_that_fails_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, full(), None)
    said: list[str] = []
    with Checkpoints(tmp_path, say=said.append) as saved:
        saved.save(1, {}, groups(1.0))
    assert saved.steps() == [1]
    assert said == []


def test_a_failed_save_is_skipped_loudly_with_the_old_one_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    saved = Checkpoints(tmp_path, keep=1, say=said.append)
    saved.save(1, {}, groups(1.0), required=True)
    failing(monkeypatch, full(), full(), None)
    saved.save(2, {}, groups(2.0))
    with pytest.raises(MachineFailed, match="step 2 is skipped"):
        saved.wait()
    assert saved.load(1).groups["weights"]["net/a"][0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert len(said) == 1
    assert "a checkpoint needs 69.8 kB, " in said[0]
    assert "are free; the checkpoint of step 2 is skipped, the training goes on (that of step 1 is intact)" in said[0]
    saved.save(3, {}, groups(3.0))
    saved.wait()
    assert saved.steps() == [3]


def test_three_failed_saves_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, OSError(errno.EROFS, "Read-only file system"))
    said: list[str] = []
    saved = Checkpoints(tmp_path, say=said.append)
    for step in (1, 2):
        saved.save(step, {}, groups(1.0))
    with pytest.raises(
        MachineFailed, match=r"cannot be written \(Read-only file system\); step 3 is not saved \(3 sav"
    ):
        saved.save(3, {}, groups(1.0))
    assert len(said) == 2
    assert list(tmp_path.iterdir()) == []


def test_failures_count_only_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, full(), full(), full(), full(), None, full(), full(), full(), full(), None)
    with Checkpoints(tmp_path, say=lambda text: None) as saved:
        for step in range(1, 7):
            saved.save(step, {}, groups(1.0))
    assert saved.steps() == [3, 6]


def test_a_failed_required_save_tells_what_is_needed_and_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "free_space", lambda path: 30_000)
    with pytest.raises(MachineFailed, match=r"needs 69\.8 kB, 30\.0 kB are free; step 4 is not saved, there is no ear"):
        Checkpoints(tmp_path).save(4, {}, groups(1.0), required=True)
    assert MachineFailed.exit_code == 4


def test_a_fault_of_ours_in_the_thread_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Snapshot, path: Path) -> str:
        raise KeyError("ours")

    monkeypatch.setattr(Snapshot, "write", wrong)
    saved = Checkpoints(tmp_path)
    saved.save(1, {}, groups(1.0))
    with pytest.raises(KeyError, match="ours"):
        saved.save(2, {}, groups(1.0))


PROGRAM = """
import os, signal, sys, threading, time, torch
from pathlib import Path
from gaekit.train.checkpoint import Checkpoints
from gaekit.train.snapshot import Snapshot

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
folder, how = Path(sys.argv[1]), sys.argv[2]
write, interrupted = Snapshot.write, threading.Event()

def slowly(self, path):
    digest = write(self, path)
    print("half", flush=True)
    interrupted.wait(30 if how == "wait" else 1)
    time.sleep(0.2)
    return digest

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    interrupted.set()

saved = Checkpoints(folder)
saved.save(1, {}, {"weights": {"a": torch.ones(1000)}}, required=True)
Snapshot.write = slowly
saved.save(2, {}, {"weights": {"a": torch.full((1000,), 2.0)}})
while not any(folder.glob(".step-*/*")):
    time.sleep(0.01)
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "interrupt":
    raise KeyboardInterrupt
if how == "wait":
    threading.Timer(0.2, interrupt).start()
    saved.wait()
"""


@pytest.mark.parametrize(("how", "left"), [("kill", [1]), ("interrupt", [1, 2]), ("wait", [1, 2])])
def test_a_process_that_ends_during_a_write_leaves_no_half_that_is_taken_for_whole(
    tmp_path: Path, how: str, left: list[int]
) -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path, how], capture_output=True, text=True, check=False)
    assert ended.returncode in (-signal.SIGKILL, -signal.SIGINT, 1), ended.stderr
    assert ("KeyboardInterrupt" in ended.stderr) == (how != "kill")
    with Checkpoints(tmp_path) as saved:
        assert saved.steps() == left
        assert all(saved.load(step).groups["weights"]["a"][0] == step for step in left)
        saved.save(3, {}, groups(3.0))
    assert saved.steps() == [left[-1], 3]
    assert len(list(tmp_path.iterdir())) == 2  # what was half-written is gone


def test_killed_before_any_operation_on_a_file_what_was_saved_is_there_and_whole(tmp_path: Path) -> None:
    program = Path(__file__).parent / "kills_program.py"
    ended = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert len(found) > 20
    assert {look["found"] for look in found} == {0, 1, 2, 3}
    for moment, look in enumerate(found, 1):
        assert look["sound"], moment
        assert look["right"], moment
        assert look["found"] >= look["reported"], moment
        if look["found"] < 3:  # else there was nothing left to save, and the next save prunes
            assert look["after"] == ["step-00000003"], moment


class Squares(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        return index * index


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes fork on Linux alone")
def test_workers_forked_during_a_write_work(tmp_path: Path, slow: None) -> None:
    with Checkpoints(tmp_path) as saved:
        for step in (1, 2):
            saved.save(step, {}, groups(1.0))
            loader = DataLoader(Squares(), batch_size=8, num_workers=2, multiprocessing_context="fork", timeout=20)
            assert sum(int(batch.sum()) for batch in loader) == sum(i * i for i in range(40))
    assert saved.steps() == [1, 2]


def hurt(folder: Path, how: str) -> str:
    """Damage a checkpoint; what its description must say."""
    file, manifest = folder / "weights.safetensors", folder / stored.MANIFEST
    match how:
        case "cut off":
            os.truncate(file, 100)
            return "weights.safetensors has 100 bytes"
        case "flipped":
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
            return "weights.safetensors is not what was saved"
        case "gone":
            file.unlink()
            return "weights.safetensors is missing"
        case "no manifest":
            manifest.unlink()
            return "checkpoint.json is missing"
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:50])
            return "checkpoint.json cannot be read"
        case _:
            manifest.write_text("[1]")
            return "checkpoint.json cannot be read"


@pytest.mark.parametrize("how", ["cut off", "flipped", "gone", "no manifest", "half a manifest", "another manifest"])
def test_a_damaged_checkpoint_is_named_passed_over_and_written_anew(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpoints(tmp_path) as saved:
        for step in (1, 2):
            saved.save(step, {}, groups(step) | {"ema": {"a": torch.ones(3)}})
    text = hurt(tmp_path / "step-00000002", how)
    assert text in saved.damage(2)[0]
    assert saved.damage(1) == ()
    with Checkpoints(tmp_path) as again:
        found = again.latest(9)
        assert found is not None
        assert found.step == 1
        assert "step-00000002" in caplog.text
        assert text in caplog.text
        again.save(2, {}, groups(2.0))
    assert again.damage(2) == ()
    assert again.steps() == [1, 2]


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as saved:
        for step in (1, 2):
            saved.save(step, {}, groups(step))
    hurt(tmp_path / "step-00000002", "flipped")
    with Checkpoints(tmp_path) as again:
        assert again.latest(9) is not None
        again.save(3, {}, groups(3.0))
    assert again.steps() == [1, 3]


def test_a_checkpoint_of_the_former_format_is_read(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"x": 1}, groups(1.0))
    manifest = stored.read_json(tmp_path / "step-00000001" / stored.MANIFEST)
    del manifest["bytes"], manifest["retention"]
    (tmp_path / "step-00000001" / stored.MANIFEST).write_text(json.dumps(manifest))
    assert saved.load(1).state == {"x": 1}
    assert saved.stored()[0].damage == ()
    assert saved.stored()[0].kept == ("last",)


def test_one_pruned_while_it_is_listed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoints(tmp_path) as saved:
        for step in (1, 2):
            saved.save(step, {}, groups(step))
    look = stored.CheckpointFolder._damage_of

    def pruned(self: stored.CheckpointFolder, step: int, *rest: object) -> str:
        if step == 1:
            shutil.rmtree(self.path(1), ignore_errors=True)
        return look(self, step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stored.CheckpointFolder, "_damage_of", pruned)
    assert [s.step for s in saved.stored(hashes=True)] == [2]


@pytest.mark.gpu
def test_tensors_of_a_card_are_copied_through_pinned_memory(tmp_path: Path, slow: None) -> None:
    weights = {"weights": {"a": torch.ones(1 << 20, device="cuda"), "b": torch.ones(3)}}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {}, weights)
        weights["weights"]["a"] += 1
        assert saved._copies["weights"]._buffer.is_pinned()
    assert torch.equal(saved.load(1).groups["weights"]["a"], torch.ones(1 << 20))
