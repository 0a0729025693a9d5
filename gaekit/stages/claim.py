"""Claiming a room: what is complete is read without its lock; what another process writes is waited for."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gaekit.errors import GaekitError, Interrupted, Preempted, ReportedByRank0
from gaekit.parallel import World
from gaekit.store.files import human_duration
from gaekit.store.room import Room, RoomInUse
from gaekit.train.progress import Reporter
from gaekit.train.signals import StopRequest, stop_request

LOOK_SECONDS = 0.5
"""Between two looks at a room in use: a signal is answered, and a free room taken, within that time."""
SECONDS_BETWEEN_LINES = 600.0


@contextmanager
def claim(room: Room, title: str, world: World, reporter: Reporter, *, wait: bool) -> Iterator[dict[str, Any] | None]:
    """Give the record of a complete room; or None, and then rank 0 holds the room's lock for all ranks in the block.

    Where another process holds it, waits and says by whom the room is used and for how long; what that process
    completes meanwhile is found. Every rank must call it. Raises RoomInUse if not `wait`, Interrupted or Preempted
    after a signal while it waits.
    """
    with ExitStack() as lock:
        claim = _Claim(room, title, reporter, wait, lock)
        found = world.on_rank0(claim.look)
        if found is None:
            with stop_request(world.silent_ranks) as stop:
                while found is None:
                    time.sleep(LOOK_SECONDS)
                    found = world.on_rank0(claim.look)
                    _leave_if(stop, claim, world)
        yield found[0]


class _Claim:
    """Looks at one room until it is complete or free."""

    def __init__(self, room: Room, title: str, reporter: Reporter, wait: bool, lock: ExitStack):
        self.room, self.title, self.reporter, self.wait, self.lock = room, title, reporter, wait, lock
        self._began, self._told, self._holder = time.monotonic(), 0.0, ""

    def look(self) -> tuple[dict[str, Any] | None] | None:
        """(record,) of a complete room, (None,) once the lock is held, None while another process holds it."""
        if (done := self.room.done()) is not None:
            return (done,)
        try:
            self.lock.enter_context(self.room.lock())
        except RoomInUse as busy:
            if not self.wait:
                raise
            self._tell(busy.holder)
            return None
        if (done := self.room.done()) is not None:  # completed between the two looks
            self.lock.close()
        return (done,)

    def _tell(self, holder: str) -> None:
        """A line for each process that is waited for, from the second look on, and one now and then."""
        waited, who = time.monotonic() - self._began, holder.partition(" for ")[0]
        if waited >= LOOK_SECONDS and (who != self._holder or waited - self._told > SECONDS_BETWEEN_LINES):
            self._told, self._holder = waited, who
            since = f" ({human_duration(round(waited))} so far)" if waited > SECONDS_BETWEEN_LINES else ""
            self.reporter.say(
                f"{self.title}: waiting{since} for {self.room.path}, in use by {holder}; Ctrl-C ends this, nothing is "
                "lost"
            )


def _leave_if(stop: StopRequest, claim: _Claim, world: World) -> None:
    """End every rank if one has been asked to stop."""
    number = world.all_reduce_max(int(stop.signal or 0))
    if not number:
        return
    error: type[GaekitError] = Interrupted if number == signal.SIGINT else Preempted
    message = f"{claim.title}: stopped while waiting for {claim.room.path}; the same command goes on from there"
    raise error(message) if world.is_rank0 else ReportedByRank0(message, error.exit_code)
