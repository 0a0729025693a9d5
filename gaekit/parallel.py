"""The processes of one run: which of them this is, and the few things that they do together.

Ranks come from torchrun, by its environment variables. A run of one process has no process group, and everything here
is then immediate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gaekit.errors import GaekitError, ReportedByRank0
from gaekit.heartbeat import Heartbeat, run_store

TIMEOUT = timedelta(hours=24)
"""How long ranks wait for one that works alone, over gloo, where the connections of a rank that dies close at once. A
training that waits for one inside NCCL ends by `gaekit.train.signals`."""
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those of the run. `rank` counts from 0 over all machines, `local_rank` on this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: Any = None
    heartbeat: Heartbeat | None = None

    @property
    def is_rank0(self) -> bool:
        """Whether this is the process that writes what there is one of: the view, manifests, checkpoints."""
        return self.rank == 0

    @property
    def silent_ranks(self) -> Callable[[], list[int]] | None:
        """Which other ranks give no sign of life any more; None for one process."""
        return self.heartbeat.silent if self.heartbeat else None

    def rows(self, batch: int) -> tuple[int, int]:
        """This rank's rows [first, last) of a global batch. Raises GaekitError if the ranks do not divide it."""
        if batch % self.size:
            raise GaekitError(
                f"a batch of {batch} does not divide over {self.size} processes; "
                f"{batch - batch % self.size or self.size} or {batch - batch % self.size + self.size} would"
            )
        part = batch // self.size
        return self.rank * part, (self.rank + 1) * part

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, in place, on its device; on a CPU ranks wait as long as for `barrier`."""
        if self.size > 1:
            dist.all_reduce(value, group=None if value.is_cuda else self.group)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks, in place."""
        return self.sum(value).div_(self.size)

    def all_reduce_max(self, value: int) -> int:
        """The largest over ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return int(tensor)

    def broadcast(self, value: T) -> T:
        """What rank 0 holds, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def broadcast_tensor(self, value: Tensor) -> Tensor:
        """Rank 0's numbers, in place, in a tensor of the same shape and type on every rank."""
        if self.size > 1:
            dist.broadcast(value, src=0, group=None if value.is_cuda else self.group)
        return value

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in their order, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def gather(self, value: T, to: int) -> list[T]:
        """Every rank's value, in their order, on rank `to`; [] on the others."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.rank == to else None
        dist.gather_object(value, found, dst=to, group=self.group)
        return found or []

    def on_rank0(self, action: Callable[[], T]) -> T:
        """What `action` gives on rank 0, which alone runs it, on every rank. A GaekitError ends all of them, told
        once."""
        outcome: Any = None
        error: GaekitError | None = None
        if self.is_rank0:
            try:
                outcome = action()
            except GaekitError as found:
                error = found
        outcome, failure = self.broadcast((outcome, (str(error), error.exit_code) if error else None))
        if error is not None:
            raise error
        if failure is not None:
            raise ReportedByRank0(*failure)
        return outcome  # type: ignore[no-any-return]

    def rank0_first(self, action: Callable[[], T]) -> T:
        """Each rank's own result of `action`; rank 0 goes first, and a GaekitError there ends every rank, told once."""
        mine: list[T] = []
        self.on_rank0(lambda: mine.append(action()))
        return mine[0] if mine else action()

    def barrier(self) -> None:
        """Go on when all ranks are here."""
        if self.size > 1:
            dist.barrier(group=self.group)


def launched() -> bool:
    """Whether torchrun (or what sets its variables) started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)


def is_first_process() -> bool:
    """Whether this process is rank 0 of its run, also before the run's world is joined and after it is left."""
    return not launched() or os.environ["RANK"] == "0"


def local_ranks() -> int:
    """How many ranks of this run share this machine, by torchrun's LOCAL_WORLD_SIZE."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched() else 1


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """The world of this run, left at the end of the block; one process where torchrun started none.

    After an error the process group stays as it is: to take it down is a collective call (NCCL's), in which this
    process would wait for others that wait for it in a step. The command line ends the process instead, once the error
    is printed.
    """
    if not launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield World()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    rank, size = dist.get_rank(), dist.get_world_size()
    heartbeat = Heartbeat(run_store(), rank, size).start()
    yield World(rank, size, local_rank, group, heartbeat)
    heartbeat.stop()
    dist.destroy_process_group()
