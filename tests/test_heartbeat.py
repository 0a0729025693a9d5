"""Who no longer counts has ended; who is only slow goes on counting."""

from __future__ import annotations

import torch.distributed as dist

from gaekit.heartbeat import Heartbeat


class Gone:
    """A store whose process has ended."""

    def add(self, key: str, amount: int, /) -> int:
        raise RuntimeError("Connection reset by peer")


def beats(now: list[float]) -> tuple[dist.HashStore, Heartbeat]:
    store = dist.HashStore()
    return store, Heartbeat(store, rank=0, size=3, patience=30, clock=lambda: now[0])


def test_a_rank_whose_count_stands_still_for_longer_than_patience_is_silent() -> None:
    now = [0.0]
    store, heartbeat = beats(now)
    for now[0] in (0.0, 10.0, 20.0, 31.0):
        store.add("1", 1)
        silent = heartbeat.silent()
    assert silent == [2]


def test_patience_begins_with_the_first_look_and_anew_with_each_beat() -> None:
    now = [1000.0]
    store, heartbeat = beats(now)
    assert heartbeat.silent() == []
    now[0] = 1029.0
    store.add("1", 1)
    store.add("2", 1)
    assert heartbeat.silent() == []
    now[0] = 1058.0
    assert heartbeat.silent() == []
    now[0] = 1060.0
    assert heartbeat.silent() == [1, 2]


def test_without_the_store_all_others_count_as_gone() -> None:
    assert Heartbeat(Gone(), rank=1, size=3).silent() == [0, 2]


def test_it_counts_until_it_is_stopped() -> None:
    store = dist.HashStore()
    heartbeat = Heartbeat(store, rank=2, size=3, every=0.01).start()
    while store.add("2", 0) < 3:
        pass
    heartbeat.stop()
    assert Heartbeat(store, rank=0, size=3, patience=0.0).silent() == []
