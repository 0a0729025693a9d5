"""The next batch is made by a thread while one is used; what fails there fails where its batch would have been."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import closing

import numpy as np
import pytest
import torch
from picture_helpers import Pictures

from gaekit.data.ahead import one_ahead
from gaekit.data.images import ImageBatch, Images
from gaekit.stages.features import NAMES, Features
from gaekit.store.shard_reader import ShardReader


def counted(made: list[int], closed: list[str], fails_at: int = 99) -> Generator[int, None, None]:
    try:
        for number in range(100):
            if number == fails_at:
                raise OSError("the disk is gone")
            made.append(number)
            yield number
    finally:
        closed.append(threading.current_thread().name)


def test_one_batch_is_made_while_one_is_used_and_no_more() -> None:
    made: list[int] = []
    with closing(one_ahead(counted(made, []), lambda number: -number)) as ahead:
        assert next(ahead) == 0
        while made != [0, 1]:
            pass
        assert next(ahead) == -1
        while made != [0, 1, 2]:
            pass


def test_closing_it_closes_what_it_reads_from_in_the_same_thread() -> None:
    closed: list[str] = []
    ahead = one_ahead(counted([], closed), lambda number: number)
    next(ahead)
    ahead.close()
    assert len(closed) == 1
    assert closed[0].startswith("batches")


def test_what_is_raised_comes_after_the_batches_before_it() -> None:
    ahead = one_ahead(counted([], [], fails_at=2), lambda number: number)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_an_iterator_that_ends_ends_it() -> None:
    assert list(one_ahead((n for n in range(3)), str)) == ["0", "1", "2"]


def test_images_go_to_a_device_as_they_were_decoded_and_are_mirrored_there() -> None:
    stream = Images(Pictures(12), 8).training(0, 6, flip=True)
    with closing(stream):  # type: ignore[type-var]
        batch = next(stream)
    assert bool(batch.flip_B.any())
    plain = Images(Pictures(12), 8).batch(batch.index_B.tolist(), [False] * 6)
    assert torch.equal(batch.pixels_BRR3, plain.pixels_BRR3)
    expected = torch.where(batch.flip_B[:, None, None, None], plain.image_B3RR.flip(3), plain.image_B3RR)
    assert torch.equal(batch.image_B3RR, expected)
    assert torch.equal(batch.mirrored().image_B3RR, expected.flip(3))
    assert torch.equal(plain.mirrored().image_B3RR, plain.image_B3RR.flip(3))
    assert batch.to("meta").index_B.device.type == "cpu"  # where rows of a cache are looked up by it


class Rows:
    """Stands for a reader of two tensors whose row i holds i, and i + 0.5 for the mirror image; counts rows read."""

    def __init__(self) -> None:
        self.read_rows = 0

    def empty(self, name: str, count: int) -> torch.Tensor:
        return torch.empty(count, 1)

    def shards(self, name: str) -> Iterator[torch.Tensor]:
        yield torch.arange(20)

    def read(self, name: str, indices: np.ndarray, out: torch.Tensor, places: np.ndarray) -> None:
        self.read_rows += len(indices)
        out[places, 0] = torch.from_numpy(indices).float() + (0.5 if name == NAMES[True] else 0.0)


def test_features_are_read_with_the_images_each_view_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Rows()
    monkeypatch.setattr(ShardReader, "__init__", lambda *_: None)
    features = Features(None, "float32", reader)  # type: ignore[arg-type]
    with closing(Images(Pictures(20), 8).training(0, 10, flip=True, features=features.reading)) as stream:  # type: ignore[type-var]
        batch: ImageBatch = next(stream)
    assert batch.feature_BFHW is not None
    assert bool(batch.flip_B.any())
    assert torch.equal(features.of(batch)[:, 0], batch.index_B + 0.5 * batch.flip_B)
    assert reader.read_rows in (10, 20)  # one batch, and perhaps the next


ABANDONED = """
import gc
from gaekit.data.ahead import one_ahead

closed = []

def batches():
    try:
        yield from range(9)
    finally:
        closed.append(True)

def abandon():
    stream = one_ahead(batches(), lambda batch: batch)
    next(stream)
    cycle = [stream]
    cycle.append(cycle)

gc.disable()
abandon()
gc.collect()
assert closed == [True]
"""


def test_a_stream_that_an_error_left_behind_is_closed_by_the_garbage_collector() -> None:
    subprocess.run([sys.executable, "-c", ABANDONED], check=True, timeout=120)
