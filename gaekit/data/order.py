"""The order in which a training visits its items: a function of the seed alone, so that any step can be the first.

Epoch e visits all n items in the order `permutation(seed, e, n)`; epochs follow each other without a gap, and the
k-th batch of B covers the positions [k * B, (k + 1) * B), across the borders of epochs and also when B > n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaekit.errors import PluginError

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
EpochOrder = Callable[[int, int], Indices]
"""(seed, epoch) -> the order of that epoch, for data that is better not visited at random."""


def split_mix(state: int, index: NDArray[Any]) -> NDArray[np.uint64]:
    """Output number `index` (from 0) of SplitMix64 started at `state` (Steele, Lea, Flood, OOPSLA 2014).

    Distinct indices give distinct numbers, so that sorting by them is a permutation without ties.
    """
    z = np.uint64(state) + (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _state(purpose: str, seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def permutation(seed: int, epoch: int, n: int) -> Indices:
    """The order of the n items in `epoch`; the same with every version of numpy."""
    return np.argsort(split_mix(_state("order", seed, epoch), np.arange(n))).astype(np.int64)


def flipped(seed: int, epoch: int, index: Indices) -> Flags:
    """Whether each item is mirrored when `epoch` visits it: half of them are, another half in each epoch."""
    return (split_mix(_state("flip", seed, epoch), index) >> np.uint64(63)).astype(bool)


class TrainingOrder:
    """The endless sequence of batches over n items. Any batch is found without those before it, in O(n log n), and
    those after it in O(batch); one epoch's permutation is held, 8 bytes an item.

    `epoch_order` replaces `permutation`; PluginError is raised at an epoch where it does not visit each item once.
    """

    def __init__(self, n: int, batch: int, seed: int, *, flip: bool = False, epoch_order: EpochOrder | None = None):
        if n < 1 or batch < 1:
            raise ValueError(f"an order needs at least one item and a batch of at least one, not {n} and {batch}")
        self.n, self.size, self.seed, self.flip = n, batch, seed, flip
        self.epoch_order = epoch_order
        self._epoch = -1
        self._permutation: Indices = np.empty(0, dtype=np.int64)

    def batch(self, step: int, first: int = 0, last: int | None = None) -> tuple[Indices, Flags]:
        """(item index, mirrored) of the rows [first, last) of batch `step`, counted from 0 at the start of the
        training."""
        last = self.size if last is None else last
        if not (step >= 0 and 0 <= first < last <= self.size):
            raise ValueError(
                f"batch {step}, rows {first} to {last}: there are {self.size} rows, and steps count from 0"
            )
        return self._visits(step * self.size + first, step * self.size + last)

    def _visits(self, position: int, end: int) -> tuple[Indices, Flags]:
        indices, flips = [], []
        while position < end:
            epoch, offset = divmod(position, self.n)
            index = self._permuted(epoch)[offset : offset + end - position]
            indices.append(index)
            flips.append(flipped(self.seed, epoch, index) if self.flip else np.zeros(len(index), dtype=bool))
            position += len(index)
        return np.concatenate(indices), np.concatenate(flips)

    def _permuted(self, epoch: int) -> Indices:
        if epoch != self._epoch:
            self._permutation = self._order_of(epoch)
            self._epoch = epoch
        return self._permutation

    def _order_of(self, epoch: int) -> Indices:
        if self.epoch_order is None:
            return permutation(self.seed, epoch, self.n)
        order = np.asarray(self.epoch_order(self.seed, epoch), dtype=np.int64)
        if not np.array_equal(np.sort(order), np.arange(self.n)):
            raise PluginError(f"the data set's order({self.seed}, {epoch}) does not visit each of {self.n} images once")
        return order
