"""Whether there is shared memory enough is judged for all ranks of a machine, each of which will take its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from gaekit.data import decoding
from gaekit.errors import MachineFailed

SIZE, MOST, WORKERS = 64, 8, 2
NEEDED = (WORKERS * decoding.PREFETCH + 1) * MOST * SIZE**2 * 3


def have(monkeypatch: pytest.MonkeyPatch, free: int, ranks: int) -> None:
    monkeypatch.setattr(decoding, "SHARED", Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    torchrun = {"RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, str(value))


def test_memory_for_one_rank_is_not_enough_for_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, free=7 * NEEDED, ranks=8)
    with pytest.raises(MachineFailed, match=r"8 ranks on this machine, each with 2 processes.*lower runtime\.workers"):
        decoding._new_shelf(WORKERS, MOST, SIZE)


@pytest.mark.parametrize("ranks", [1, 8])
def test_memory_for_all_is_enough(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, free=ranks * NEEDED, ranks=ranks)
    assert decoding._new_shelf(WORKERS, MOST, SIZE).nbytes == NEEDED
