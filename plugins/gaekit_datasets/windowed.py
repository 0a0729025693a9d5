"""An order of training for data in shards: random, and yet with few shards in use at any time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def windowed_order(sizes: Sequence[int], seed: int, epoch: int, window: int) -> NDArray[np.int64]:
    """The items of shards of these sizes, as `epoch` visits them: shards in random order, then each item moved from
    its place by less than `window` places. A function of the arguments alone, the same with every version of numpy.

    Each item is sorted by its place plus a uniform number in [0, window), so that neighbours mix as in a shuffle
    buffer of that size, without an edge between one buffer and the next.
    """
    state = hashlib.sha256(f"shards/{seed}/{epoch}".encode()).digest()
    # numpy promises the raw output of its bit generators for ever, unlike what it draws from them.
    random = np.random.PCG64(int.from_bytes(state[:16], "big"))
    shards = np.argsort(random.random_raw(len(sizes)), kind="stable")
    starts = np.cumsum([0, *sizes])
    items = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    uniform = (random.random_raw(len(items)) >> np.uint64(11)) * 2.0**-53
    return items[np.argsort(np.arange(len(items)) + window * uniform, kind="stable")].astype(np.int64)
