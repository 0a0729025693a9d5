"""What a rank says that fails in, or loses another to, the communication between ranks; and that it says it at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from gaekit.cli import main
from gaekit.cli.launch import EXIT_CODES, communication_failure

NCCL = (
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error (run with NCCL_DEBUG=INFO for details), "
    "Error while creating shared memory segment /dev/shm/nccl-x (size 33030528), error: No space left on device (28)"
)
REMOTE = "NCCL error: remote process exited or there was a network error, NCCL version 2.27.5"
GLOO = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:31337"
TIMED_OUT = "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)"


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (dist.DistBackendError(NCCL), False),
        (dist.DistBackendError(TIMED_OUT), False),
        (dist.DistNetworkError("The client socket has failed to connect to [node7]:29500"), False),
        (dist.DistBackendError(REMOTE), True),
        (RuntimeError(GLOO), True),
    ],
)
def test_an_error_of_communication_is_shown_whole_and_a_lost_process_told_only_where_it_is_known(
    error: RuntimeError,
    lost: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv(EXIT_CODES, str(tmp_path))
    monkeypatch.setattr("gaekit.cli._run", lambda arguments: fail(error))
    assert main(["run", "smoke"]) == 4
    told = capsys.readouterr().err
    assert str(error) in told
    assert "rank 3" in told
    assert ("lost another process" in told) == lost
    left = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert left == ({} if lost else {"rank-3": "4"})  # the launcher answers with the code of the one that began it


def test_other_errors_and_processes_that_are_no_ranks_are_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert communication_failure(RuntimeError("CUDA error: out of memory")) is None
    assert communication_failure(ValueError("NCCL")) is None
    monkeypatch.delenv("RANK")
    assert communication_failure(dist.DistBackendError(NCCL)) is None


RANK = """
import sys, time
import torch, torch.distributed as dist
from gaekit import cli
from gaekit.errors import BadImage
from gaekit.parallel import join_world

dist.destroy_process_group = lambda: time.sleep(600)  # as NCCL's, while another rank is in an all-reduce

def work(arguments):
    with join_world(torch.device("cpu")) as world:
        if world.rank == 1:
            raise {error}
        world.barrier()

cli._run = work
sys.exit(cli.main([]))
"""


@pytest.mark.parametrize(
    ("error", "code", "sign"),
    [("BadImage('cat.png: cut off')", 2, "error: cat.png: cut off"), ("KeyError('k')", 1, "KeyError: 'k'")],
)
def test_a_rank_that_fails_alone_says_why_and_ends_without_waiting_for_the_others(
    error: str, code: int, sign: str
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    begin, ranks = time.monotonic(), []
    for rank in range(2):
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", RANK.format(error=error)]
        ranks.append(subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=90)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [4, code]
    assert sign in told[1]
    assert "rank 0: lost another process of this run" in told[0]
    assert time.monotonic() - begin < 60
