"""Who runs what of a sweep, and how it ends: runs are claimed, failed, stopped and taken over. The runs themselves are
stood for by a small program; `test_sweep.py` has real ones."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from sweep_helpers import GRID, make_sweep

from gaekit.errors import Interrupted
from gaekit.plugins import load_plugins
from gaekit.sweeps import run
from gaekit.sweeps.folder import SweepFolder
from gaekit.sweeps.members import Member, Sweep
from gaekit.sweeps.process import Starter, visible_gpus
from gaekit.sweeps.run import MembersFailed, SweepRunner
from gaekit.train.progress import Reporter

PROGRAM = (sys.executable, str(Path(__file__).with_name("member_program.py")))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return make_sweep(tmp_path_factory.mktemp("sweep"), load_plugins(), GRID.replace("[0, 1]", "[0]"))


@dataclass
class Stood:
    """In place of `Planned`: a run is finished once its file `made` is there; none shares anything."""

    sweep: Sweep
    folder: SweepFolder

    def is_finished(self, member: Member) -> bool:
        return (self.folder.claim(member.label).room.path / "made").exists()

    def missing(self, member: Member) -> None:
        return None


@dataclass
class Tried:
    """A sweep in a folder, with what its runs do."""

    sweep: Sweep
    folder: SweepFolder
    output: io.StringIO

    def does(self, number: int, what: str) -> Path:
        path = self.folder.claim(self.sweep.members[number].label).room.path
        path.mkdir(parents=True, exist_ok=True)
        (path / "does").write_text(what)
        return path

    def runner(self, jobs: int = 1) -> SweepRunner:
        reporter = Reporter(Console(file=self.output, width=200))
        return SweepRunner(Stood(self.sweep, self.folder), self.folder, Starter(PROGRAM, slots=jobs), reporter)  # type: ignore[arg-type]

    def made(self) -> list[bool]:
        return [Stood(self.sweep, self.folder).is_finished(member) for member in self.sweep.members]


@pytest.fixture
def tried(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    monkeypatch.setattr(run, "SECONDS_BETWEEN_LOOKS_AT_OTHERS", 0.2)
    return Tried(sweep, SweepFolder.of(sweep.name, tmp_path), io.StringIO())


def test_a_failed_run_is_told_with_its_reason_and_the_others_finish(tried: Tried) -> None:
    tried.does(1, "bad")
    with pytest.raises(MembersFailed) as caught:
        tried.runner(jobs=2).run()
    assert tried.made() == [True, False, True, True]
    assert caught.value.exit_code == 3
    assert re.search(r"1 of 4 runs failed.*depth_1-scale_1.5-seed_0: failed \(exit 3\): too hot; log: \S+log.txt",
                     str(caught.value), flags=re.S)  # fmt: skip
    told = tried.output.getvalue()
    assert "[1/4] depth_1-scale_1.0-seed_0: started; log: " in told
    assert "  depth_1-scale_1.0-seed_0: [1/1] diffusion: running" in told
    assert "[4/4] depth_2-scale_1.5-seed_0: finished in" in told
    tried.does(1, "ok")
    tried.runner().run()
    assert tried.made() == [True] * 4
    assert "3 of 4 runs are finished already" in tried.output.getvalue()


def test_a_killed_run_is_a_failed_one(tried: Tried) -> None:
    tried.does(0, "killed")
    with pytest.raises(MembersFailed, match=r"failed \(killed by SIGKILL\)") as caught:
        tried.runner(jobs=4).run()
    assert caught.value.exit_code == 4
    assert tried.made() == [False, True, True, True]


def until_waiting(tried: Tried, label: str) -> None:
    while f"waiting for 1 run that other processes make: {label} (process {os.getpid()}" not in tried.output.getvalue():
        time.sleep(0.05)


def test_what_another_process_makes_is_left_to_it_and_counted_when_it_is_there(tried: Tried) -> None:
    claim = tried.folder.claim(tried.sweep.members[0].label)
    runner = threading.Thread(target=tried.runner(jobs=2).run)
    with claim.room.lock():
        runner.start()
        until_waiting(tried, "depth_1-scale_1.0-seed_0")
        assert tried.made() == [False, True, True, True]
        (claim.room.path / "made").write_text("")
    runner.join(20)
    assert not runner.is_alive()
    assert not (claim.room.path / "begun").exists()
    assert "[1/4] depth_1-scale_1.0-seed_0: finished by another process" in tried.output.getvalue()


def test_what_another_process_did_not_finish_is_taken_over(tried: Tried) -> None:
    claim = tried.folder.claim(tried.sweep.members[3].label)
    runner = threading.Thread(target=tried.runner(jobs=2).run)
    with claim.room.lock():
        runner.start()
        until_waiting(tried, "depth_2-scale_1.5-seed_0")
        assert tried.made() == [True, True, True, False]
    runner.join(20)
    assert tried.made() == [True] * 4
    assert (claim.room.path / "begun").exists()


def test_what_fails_in_another_process_is_told_and_not_tried_here(tried: Tried) -> None:
    claim = tried.folder.claim(tried.sweep.members[0].label)
    raised: list[MembersFailed] = []

    def told() -> None:
        try:
            tried.runner(jobs=2).run()
        except MembersFailed as failed:
            raised.append(failed)

    runner = threading.Thread(target=told)
    with claim.room.lock():
        runner.start()
        until_waiting(tried, "depth_1-scale_1.0-seed_0")
        claim.log.write_text("error: no power\n")
        claim.end({"code": 4, "ended": "now", "by": "another"})
    runner.join(20)
    assert "failed (exit 4): no power" in str(raised[0])
    assert not (claim.room.path / "begun").exists()


def test_ctrl_c_has_every_run_save_and_the_next_time_goes_on(tried: Tried) -> None:
    paths = [tried.does(number, "wait") for number in range(4)]

    def interrupt() -> None:
        while sum((path / "begun").exists() for path in paths) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted, match="0 of 4 runs are finished, the same command goes on"):
        tried.runner(jobs=2).run()
    assert [(path / "begun").exists() for path in paths] == [True, True, False, False]
    for path in paths[:2]:
        assert "stopped and saved" in (path / "log.txt").read_text()
        with pytest.raises(ProcessLookupError):
            os.kill(int((path / "begun").read_text()), 0)
    for number in range(4):
        tried.does(number, "ok")
    tried.runner(jobs=4).run()
    assert tried.made() == [True] * 4


def test_each_run_at_a_time_has_gpus_of_its_own() -> None:
    starter = Starter(PROGRAM, slots=4, processes=2, gpus=("0", "1", "2", "5"))
    assert [starter.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["0,1", "2,5", "0,1", "2,5"]
    assert "CUDA_VISIBLE_DEVICES" not in Starter(PROGRAM, slots=1, gpus=("0", "1")).environment(0)
    assert "CUDA_VISIBLE_DEVICES" not in Starter(PROGRAM, slots=2).environment(0)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-7"}) == ("3", "GPU-7")


def test_a_run_ends_when_its_sweep_is_gone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    code = f"import signal, sys, time\nfrom gaekit.cli.member import _end_with\n_end_with({reader})\n"
    code += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))\nprint('up', flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], pass_fds=(reader,), stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    assert child.poll() is None
    os.close(writer)
    assert child.wait(20) == 85
    os.close(reader)
    child.stdout.close()
