"""After a signal a process that waits for a dead one, deaf to signals, ends by itself; one whose peers live takes its
time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

PROGRAM = """
import ctypes, os, signal, sys, threading, time
import torch
from gaekit.heartbeat import Heartbeat, run_store
from gaekit import heartbeat, parallel
from gaekit.train.signals import stop_request

heartbeat.BEAT_SECONDS = 0.2
parallel.Heartbeat = lambda *given: Heartbeat(*given, every=0.2, patience=2.0)

def deaf():
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second time for ever, where no signal is heard
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

with parallel.join_world(torch.device("cpu")) as world, stop_request(world.silent_ranks) as stop:
    print("ready", flush=True)
    if sys.argv[1] == "deaf":
        deaf()
    while not stop:
        time.sleep(0.01)
    time.sleep(float(sys.argv[2]))  # drawing, compiling, saving
    world.barrier()
print("saved", flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*ranks: tuple[str, float]) -> list[subprocess.Popen[str]]:
    """A process for each (how it works, seconds that it takes after a signal), all of them in their step."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(ranks))}
    started = []
    for rank, (how, seconds) in enumerate(ranks):
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", PROGRAM, how, str(seconds)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, env=environment, **pipes))  # type: ignore[call-overload]
    try:
        for process in started:
            heard = (line for line in process.stdout if not line.startswith("[Gloo]"))  # which torch 2.9 prints
            assert next(heard, "nothing") == "ready\n"
    except AssertionError:
        for process in started:
            process.kill()
            process.communicate()
        raise
    return started


def test_a_process_that_hears_no_signal_ends_with_4_when_another_has_died() -> None:
    deaf, dying = start(("deaf", 0), ("hears", 0))
    try:
        dying.kill()
        deaf.send_signal(signal.SIGTERM)
        _, told = deaf.communicate(timeout=30)
        assert deaf.returncode == 4
        assert "rank 0: waited for rank 1, which gives no sign of life any more" in told
    finally:
        deaf.kill()
        dying.communicate()


@pytest.mark.parametrize("slow", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_ranks_that_wait_for_a_slow_one_and_the_slow_one_itself_are_left_alone(slow: int) -> None:
    ranks = start(*(("hears", 6.0 if rank == slow else 0.0) for rank in range(2)))
    begin = time.monotonic()
    for process in ranks:
        process.send_signal(signal.SIGTERM)
    ends = [process.communicate(timeout=60) for process in ranks]
    assert [(process.returncode, out) for process, (out, _) in zip(ranks, ends, strict=True)] == [(0, "saved\n")] * 2
    assert time.monotonic() - begin > 6  # three times as long as silence is borne
