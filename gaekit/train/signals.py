"""Stopping: in a training, Ctrl-C, SIGTERM and SIGUSR1 ask, and it saves and leaves between two steps; elsewhere
SIGTERM and SIGUSR1 end a stage at once, which goes on from its last whole file."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from gaekit.errors import MachineFailed, Preempted

PREEMPTING = (signal.SIGTERM, signal.SIGUSR1)
WATCHED = (signal.SIGINT, *PREEMPTING)
LOOK_SECONDS = 1.0


class StopRequest:
    """Set by the first signal; the second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


@contextmanager
def stop_request(silent: Callable[[], Sequence[int]] | None = None) -> Iterator[StopRequest]:
    """Watch for signals during the block. Outside the main thread nothing is watched.

    `silent` is for one process of several: it tells the ranks that have ended (`Heartbeat.silent`). After a signal,
    which torchrun sends when one of them has, a process that is still in the block while another has ended waits for
    it, perhaps inside a library that hears no signals (NCCL), and ends with exit code 4. While all are alive it takes
    its time, however long it compiles, draws or saves.
    """
    request = StopRequest()
    with handled(WATCHED, request._handle), _not_waiting_for_the_dead(silent):
        yield request


@contextmanager
def _not_waiting_for_the_dead(silent: Callable[[], Sequence[int]] | None) -> Iterator[None]:
    if silent is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()  # Python writes each signal's number there at once, whatever the main thread does
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(reader, silent), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


def _watch(reader: int, silent: Callable[[], Sequence[int]]) -> None:
    """Read signals' numbers until a 0; from the first that asks to stop on, look who has ended."""
    asked = False
    while True:
        if select.select([reader], [], [], LOOK_SECONDS if asked else None)[0]:
            if not (number := os.read(reader, 1)[0]):
                return
            asked = asked or number in WATCHED
        if asked and (gone := silent()):
            _end(gone)


def _end(gone: Sequence[int]) -> None:
    own, ranks = os.environ.get("RANK", "?"), ", ".join(map(str, gone))
    sys.stderr.write(f"rank {own}: waited for rank {ranks}, which gives no sign of life any more\n")
    sys.stderr.flush()
    os._exit(MachineFailed.exit_code)


@contextmanager
def preemptible(stage: str) -> Iterator[None]:
    """Have SIGTERM and SIGUSR1 raise Preempted at once during the block; a training in it handles them by itself."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Preempted(f"{stage}: stopped; what was finished is kept, and the same command goes on from there")

    with handled(PREEMPTING, leave):
        yield


@contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have a handler for these signals during the block; outside the main thread, which alone may, none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
