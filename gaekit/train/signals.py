"""Stopping: in a training, Ctrl-C, SIGTERM and SIGUSR1 ask, and it saves and leaves between two steps; elsewhere
SIGTERM and SIGUSR1 end a stage at once, which goes on from its last whole file."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from gaekit.errors import MachineFailed, Preempted

PREEMPTING = (signal.SIGTERM, signal.SIGUSR1)
WATCHED = (signal.SIGINT, *PREEMPTING)


class StopRequest:
    """Set by the first signal; the second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._answered = threading.Event()

    def __bool__(self) -> bool:
        return self.signal is not None

    def answer(self) -> None:
        """The training has heard of it and will end, however long it takes to save."""
        self._answered.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


@contextmanager
def stop_request(patience: Callable[[], float] | None = None) -> Iterator[StopRequest]:
    """Watch for signals during the block. Outside the main thread nothing is watched.

    `patience`, in seconds, is for one process of several: one that has not answered so long after a signal waits for
    another that is dead, inside a library that hears no signals (NCCL), and ends at once with exit code 4.
    """
    request = StopRequest()
    with handled(WATCHED, request._handle), _not_waiting_for_the_dead(request, patience):
        yield request


@contextmanager
def _not_waiting_for_the_dead(request: StopRequest, patience: Callable[[], float] | None) -> Iterator[None]:
    if patience is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()  # Python writes each signal's number there at once, whatever the main thread does
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while number := os.read(reader, 1)[0]:
            if number in WATCHED and not request._answered.wait(patience()):
                sys.stderr.write(f"rank {os.environ.get('RANK', '?')}: waited for another process that is gone\n")
                sys.stderr.flush()
                os._exit(MachineFailed.exit_code)

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        request.answer()
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)


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
