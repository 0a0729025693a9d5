"""Stopping: in a training, Ctrl-C, SIGTERM and SIGUSR1 ask, and it saves and leaves between two steps; elsewhere
SIGTERM and SIGUSR1 end a stage at once, which goes on from its last whole file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from gaekit.errors import Preempted

PREEMPTING = (signal.SIGTERM, signal.SIGUSR1)
WATCHED = (signal.SIGINT, *PREEMPTING)


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
def stop_request() -> Iterator[StopRequest]:
    """Watch for signals during the block. Outside the main thread nothing is watched."""
    request = StopRequest()
    with _handled(WATCHED, request._handle):
        yield request


@contextmanager
def preemptible(stage: str) -> Iterator[None]:
    """Have SIGTERM and SIGUSR1 raise Preempted at once during the block; a training in it handles them by itself."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Preempted(f"{stage}: stopped; what was finished is kept, and the same command goes on from there")

    with _handled(PREEMPTING, leave):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
