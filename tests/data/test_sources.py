"""What all data sets give to training: the same batches from any step on, for one rank and two, decoded ahead."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import write_folder, write_parquet, write_shards
from PIL import Image

from gaekit.api import Dataset
from gaekit.data.images import ImageBatch, Images
from gaekit.plugins import build, load_plugins

COUNT, BATCH, STEPS = 90, 8, 14
REGISTRY = load_plugins()
SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "image_folder": lambda root: {"root": str(write_folder(root, COUNT))},
    "webdataset": lambda root: {"shards": write_shards(root, COUNT, 20), "window": 30},
    "huggingface": lambda root: {"path": str(write_parquet(root, COUNT))},
    "digits": lambda root: {},
}


@pytest.fixture(scope="session", params=list(SOURCES))
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Dataset]:
    """Builds a data set of real digits afresh."""
    config: Any = REGISTRY.find("dataset", request.param).Config
    settings = SOURCES[request.param](tmp_path_factory.mktemp(request.param))
    return lambda: build(Dataset, config(use=request.param, **settings), REGISTRY)


def same(one: ImageBatch, other: ImageBatch) -> bool:
    names = ("image_B3RR", "label_B", "index_B", "flip_B")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize(("start", "ranks", "workers"), [(5, 1, 0), (5, 2, 0), (12, 1, 2), (12, 2, 1)])
def test_a_training_that_resumes_at_a_step_sees_the_same_batches_on_any_number_of_ranks(
    dataset: Callable[[], Dataset], start: int, ranks: int, workers: int
) -> None:
    whole = list(itertools.islice(Images(dataset().train(), 8).training(3, BATCH, flip=True), STEPS))
    rows = BATCH // ranks
    for first in range(0, BATCH, rows):
        images = Images(dataset().train(), 8, workers=workers)
        stream = images.training(3, BATCH, start=start, flip=True, first=first, last=first + rows)
        resumed = list(itertools.islice(stream, STEPS - start))
        stream.close()  # type: ignore[attr-defined]
        expected = [batch.part(first, first + rows) for batch in whole[start:]]
        assert all(same(one, other) for one, other in zip(expected, resumed, strict=True))


def test_every_epoch_visits_every_image_once(dataset: Callable[[], Dataset]) -> None:
    images = Images(dataset().train(), 8)
    steps = -(-2 * len(images) // BATCH)
    visits = [i for b in itertools.islice(images.training(0, BATCH, flip=False), steps) for i in b.index_B.tolist()]
    epochs = visits[: len(images)], visits[len(images) : 2 * len(images)]
    assert all(sorted(epoch) == list(range(len(images))) for epoch in epochs)
    assert epochs[0] != epochs[1]


class Counted:
    """Images that count, across processes, how many of them were decoded."""

    def __init__(self, total: int):
        self.total, self.decoded = total, multiprocessing.get_context("fork").Value("i", 0)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with self.decoded.get_lock():
            self.decoded.value += 1
        return Image.new("RGB", (8, 8), (index, 0, 0)), 0

    def key(self, index: int) -> str:
        return str(index)


def waited_for(reached: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)
    return reached()


@pytest.fixture
def stream() -> Iterator[Any]:
    streams: list[Any] = []
    yield streams.append
    for opened in streams:
        opened.close()


def test_batches_get_ready_while_the_training_computes(stream: Any) -> None:
    source = Counted(400)
    batches = Images(source, 8, workers=2).training(0, 10, flip=False)
    stream(batches)
    next(batches)
    for step in range(1, 6):
        # Nobody asks for a batch here: this is where a training computes.
        assert waited_for(lambda step=step: source.decoded.value >= 10 * (step + 4))
        next(batches)
    assert source.decoded.value <= 10 * 12, "workers run ahead by a few batches, not without end"


def test_without_workers_nothing_is_decoded_before_it_is_asked_for(stream: Any) -> None:
    source = Counted(400)
    batches = Images(source, 8).training(0, 10, flip=False)
    stream(batches)
    for step in range(3):
        next(batches)
        assert source.decoded.value == 10 * (step + 1)
