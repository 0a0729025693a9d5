"""A process of several that waits for a dead one, deaf to signals, ends by itself; one that answers takes its time."""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAM = """
import ctypes, os, signal, sys, threading, time
from gaekit.train.signals import stop_request

def deaf():
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second time for ever, where no signal is heard
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

with stop_request(lambda: 0.5) as stop:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    if sys.argv[1] == "deaf":
        deaf()
    while not stop:
        time.sleep(0.01)
    stop.answer()
    time.sleep(1.5)  # saving
print("saved")
"""


def run(how: str) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done, time.monotonic() - start


def test_a_process_that_hears_no_signal_ends_with_4() -> None:
    done, _ = run("deaf")
    assert done.returncode == 4
    assert "waited for another process that is gone" in done.stderr


def test_one_that_answers_saves_in_its_own_time() -> None:
    done, seconds = run("hears")
    assert done.returncode == 0
    assert done.stdout == "saved\n"
    assert seconds > 1.5
