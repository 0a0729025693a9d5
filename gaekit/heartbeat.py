"""Which processes of a run are alive, told without any of their main threads: each counts up in the run's store.

A process that is slow (it compiles, saves, draws pictures, waits for a cold disk) goes on counting; one that has ended
does not. Only so can a process that waits inside NCCL, where it hears nothing, know for which of the two it waits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch.distributed as dist

BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""A process whose count has stood still so long has ended. Six beats: a machine under load may miss some."""


class Counters(Protocol):
    """What of a torch store is used: `add` counts up and gives the count, from 0 for a new key."""

    def add(self, key: str, amount: int, /) -> int:
        """The count after adding."""
        ...


def run_store() -> Counters:
    """A connection of its own to the store at which the ranks met (MASTER_ADDR, MASTER_PORT): torch's own is locked
    while a rank waits in it for another. Call it after `init_process_group`."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
    return dist.PrefixStore("gaekit/alive", store)  # type: ignore[attr-defined]


@dataclass
class Heartbeat:
    """Counts for rank `rank` of `size` every `every` seconds from a thread, until `stop`; sees who no longer does."""

    store: Counters
    rank: int
    size: int
    every: float = BEAT_SECONDS
    patience: float = SILENT_SECONDS
    clock: Callable[[], float] = time.monotonic
    _stopped: threading.Event = field(default_factory=threading.Event)
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    def start(self) -> Heartbeat:
        """Begin to count."""
        threading.Thread(target=self._count, name="heartbeat", daemon=True).start()
        return self

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def silent(self) -> list[int]:
        """The other ranks whose counts have stood still for `patience` seconds in which this was asked again and
        again, at least every few seconds. All of them where the store itself is gone, with the process that held it."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        now = self.clock()
        try:
            counts = {rank: self.store.add(str(rank), 0) for rank in others}
        except RuntimeError:
            return others
        for rank, count in counts.items():
            if self._seen.get(rank, (-1, now))[0] != count:
                self._seen[rank] = (count, now)
        return [rank for rank in others if now - self._seen[rank][1] > self.patience]

    def _count(self) -> None:
        while not self._stopped.is_set():
            try:
                self.store.add(str(self.rank), 1)
            except RuntimeError:  # the process that held the store has ended; who waits for it will see
                return
            self._stopped.wait(self.every)
