"""How the ranks of a training agree to stop."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gaekit.parallel import World


class StopVote:
    """The largest number that any rank has handed in, the same on every rank, a call later over several: each call
    starts an exchange and gives the outcome of the one before, so that no rank waits for the slowest at every step."""

    def __init__(self, world: World):
        self.world = world
        self._open: tuple[Tensor, Any] | None = None

    def cast(self, number: int) -> int:
        """Hand in a number; -> the largest of the last call, 0 at first; of this one for one process."""
        if self.world.size == 1:
            return number
        outcome = self.close()
        box = torch.tensor([number])
        self._open = (box, dist.all_reduce(box, dist.ReduceOp.MAX, group=self.world.group, async_op=True))
        return outcome

    def close(self) -> int:
        """End the exchange under way; -> its outcome."""
        if self._open is None:
            return 0
        (box, work), self._open = self._open, None
        work.wait()
        return int(box.numpy()[0])
