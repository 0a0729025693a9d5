"""One split of a data set as batches: cropped, mirrored, cached in memory, decoded ahead by worker processes.

Shape suffixes: B batch, R image side. `center_crop`, `to_float` and `to_uint8` (crop.py) are offered here too.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gaekit.api import ImageSource
from gaekit.data.ahead import one_ahead
from gaekit.data.crop import center_crop, to_float, to_uint8
from gaekit.data.decoding import Decoded, Decoder, OnBadImage, Request, decode_ahead
from gaekit.data.order import TrainingOrder
from gaekit.errors import DataError
from gaekit.guard import ImagePromise

__all__ = ["ImageBatch", "Images", "center_crop", "to_float", "to_uint8"]

logger = logging.getLogger(__name__)


Mirroring = Literal["none", "some", "all"]


@dataclass(frozen=True)
class ImageBatch:
    """Images with their labels (0 without classes), their indices in the split, and which are seen mirrored.

    Pixels are uint8 and as they were decoded until they are asked for as numbers in [-1, 1]: to mirror and to convert
    them is left to the device to which they went. `index_B` stays on the CPU. `mirroring` sums `flip_B` up, so that
    nobody must ask a device. `feature_BFHW` are the teacher's features of these views where they were read with them.
    """

    pixels_BRR3: Tensor
    label_B: Tensor
    index_B: Tensor
    flip_B: Tensor
    mirroring: Mirroring = "some"
    feature_BFHW: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label_B)

    @cached_property
    def image_B3RR(self) -> Tensor:
        """The images in [-1, 1], float32, mirrored where `flip_B` says so."""
        if self.mirroring == "none":
            return to_float(self.pixels_BRR3)
        mirrored = self.pixels_BRR3.flip(2)
        if self.mirroring == "some":
            mirrored = torch.where(self.flip_B[:, None, None, None], mirrored, self.pixels_BRR3)
        return to_float(mirrored)

    def mirrored(self) -> ImageBatch:
        """The mirror images."""
        other: dict[Mirroring, Mirroring] = {"none": "all", "some": "some", "all": "none"}
        return replace(self, flip_B=~self.flip_B, mirroring=other[self.mirroring], feature_BFHW=None)

    def part(self, first: int, last: int) -> ImageBatch:
        """Rows first to last."""
        if first == 0 and last >= len(self):
            return self
        rows = self._each(lambda tensor: tensor[first:last])
        return replace(rows, index_B=self.index_B[first:last])

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> ImageBatch:
        """The same in memory from which a GPU copies while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        feature = None if self.feature_BFHW is None else change(self.feature_BFHW)
        pixels, label, flip = map(change, (self.pixels_BRR3, self.label_B, self.flip_B))
        return replace(self, pixels_BRR3=pixels, label_B=label, flip_B=flip, feature_BFHW=feature)


@dataclass
class _Visit:
    """A batch on its way: which images, mirrored or not, and which positions had to be decoded."""

    indices: list[int]
    flips: list[bool]
    missing: list[int]


class Images:
    """The images of one split at one size.

    source: where they come from. size: R, their side after the crop. cache_bytes: crops are kept in memory, in this
    process, if those of the whole split fit. on_bad_image: "error" raises BadImage; "skip" goes on, with one warning
    a file, and records it in `skipped`. workers: processes that decode ahead; they change nothing about what comes
    out. pinned: batches come in pinned memory, for a GPU. promise: what each image is held to as it is decoded.
    """

    def __init__(
        self,
        source: ImageSource,
        size: int,
        *,
        cache_bytes: int = 0,
        on_bad_image: OnBadImage = "error",
        workers: int = 0,
        pinned: bool = False,
        promise: ImagePromise | None = None,
    ):
        self.source, self.size, self.workers, self.pinned = source, size, workers, pinned
        self.skipped: dict[str, str] = {}
        self._decoder = Decoder(source, size, on_bad_image, promise)
        self._bad: set[int] = set()
        self._have = torch.zeros(len(source), dtype=torch.bool)
        self._label = torch.zeros(len(source), dtype=torch.int64)
        fits = len(source) * size * size * 3 <= cache_bytes
        self._cache = torch.empty(len(source), size, size, 3, dtype=torch.uint8) if fits else None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> Tensor | None:
        """label of every image, (N,) int64, where the source knows them without decoding (it has `labels`)."""
        labels = getattr(self.source, "labels", None)
        return None if labels is None else torch.as_tensor(np.array(labels, dtype=np.int64))

    def batch(self, indices: Sequence[int], flips: Sequence[bool]) -> ImageBatch:
        """The images asked for, mirrored where `flips` says so; with "skip" the next readable one stands in."""
        (batch,) = self._batches([(list(indices), list(flips))], stand_in=True, workers=0, most=len(indices))
        return batch

    def training(
        self,
        seed: int,
        batch: int,
        *,
        start: int = 0,
        flip: bool,
        first: int = 0,
        last: int | None = None,
        features: Callable[[ImageBatch], Tensor] | None = None,
    ) -> Iterator[ImageBatch]:
        """Endless batches from step `start` on, in random order or in that of the source (`order`), half of them
        mirrored if `flip`; the k-th depends on seed, k and the data alone. `batch` is the global batch, of which a
        rank takes the rows [first, last). `features` reads the feature_BFHW of a batch. A thread makes the next batch
        ready while one is used.

        Raises DataError if there is no image; BadImage by the policy; MachineFailed if a worker dies.
        """
        if not len(self):
            raise DataError("there is no image to train on")
        epoch_order = getattr(self.source, "order", None)
        order = TrainingOrder(len(self), batch, seed, flip=flip, epoch_order=epoch_order)
        rows = (order.batch(step, first, last) for step in itertools.count(start))
        visits = ((indices.tolist(), flips.tolist()) for indices, flips in rows)
        most = (batch if last is None else last) - first
        batches = self._batches(visits, stand_in=True, workers=self.workers, most=most)

        def ready(made: ImageBatch) -> ImageBatch:
            if features is not None:
                made = replace(made, feature_BFHW=features(made))
            return made.pinned() if self.pinned else made

        with closing(one_ahead(batches, ready)) as ahead:
            yield from ahead

    def in_order(self, batch: int, *, spans: Sequence[Sequence[int]] | None = None) -> Iterator[ImageBatch]:
        """Each image once, in the order of the data set: all of them, or those of the `spans` of indices, one span
        after another. No batch crosses the border of a span; the last of a span may be short.

        A batch with skipped images is shorter by them.
        """
        spans = [range(len(self))] if spans is None else spans
        parts = (span[i : i + batch] for span in spans for i in range(0, len(span), batch))
        visits = ((list(part), [False] * len(part)) for part in parts)
        for plain in self._batches(visits, stand_in=False, workers=self.workers, most=batch):
            if len(plain):
                yield plain.pinned() if self.pinned else plain

    def _batches(
        self, visits: Iterable[tuple[list[int], list[bool]]], *, stand_in: bool, workers: int, most: int
    ) -> Generator[ImageBatch, None, None]:
        # Worker processes are asked for a batch before the one at hand is used. What was cached when they were asked
        # stays cached, so that each visit's answer completes it whenever it comes.
        under_way: deque[_Visit] = deque()

        def requests() -> Iterator[Request]:
            for indices, flips in visits:
                visit = self._visit(indices, flips, stand_in)
                under_way.append(visit)
                yield Request(tuple(visit.indices[place] for place in visit.missing), stand_in)

        workers = 0 if self._complete else workers
        with closing(decode_ahead(self._decoder, requests(), workers, most)) as answers:
            for decoded in answers:
                yield self._assemble(under_way.popleft(), decoded)

    @property
    def _complete(self) -> bool:
        return self._cache is not None and int(self._have.sum()) + len(self._bad) == len(self)

    def _visit(self, indices: list[int], flips: list[bool], stand_in: bool) -> _Visit:
        if stand_in and self._bad and len(self._bad) < len(self):
            indices = [self._stand_in(index) for index in indices]
        hopeless = set() if stand_in else self._bad
        missing = [place for place, index in enumerate(indices) if not self._have[index] and index not in hopeless]
        return _Visit(indices, flips, missing)

    def _stand_in(self, index: int) -> int:
        while index in self._bad:
            index = (index + 1) % len(self)
        return index

    def _assemble(self, visit: _Visit, decoded: Decoded) -> ImageBatch:
        self._note(decoded.bad)
        index = torch.tensor(visit.indices, dtype=torch.int64)
        label, keep = self._label[index], self._have[index]
        keep[visit.missing] = False
        place = torch.tensor(visit.missing, dtype=torch.int64)[decoded.place_B]
        if len(place) == len(index):
            pixels = decoded.pixels_BRR3
        else:
            pixels = self._remembered(index, keep)
            pixels[place] = decoded.pixels_BRR3
        label[place], index[place], keep[place] = decoded.label_B, decoded.index_B, True
        self._remember(decoded)
        flip = torch.tensor(visit.flips, dtype=torch.bool)
        if not bool(keep.all()):
            pixels, label, index, flip = pixels[keep], label[keep], index[keep], flip[keep]
        mirroring: Mirroring = "some" if any(visit.flips) else "none"
        return ImageBatch(pixels, label, index, flip, mirroring)

    def _remembered(self, index_B: Tensor, known_B: Tensor) -> Tensor:
        if self._cache is None:
            return torch.zeros(len(index_B), self.size, self.size, 3, dtype=torch.uint8)
        # By numpy, as all that this thread does with many numbers: torch's threads are the training's.
        found = self._cache.numpy()[index_B.numpy()]
        found[~known_B.numpy()] = 0
        return torch.from_numpy(found)

    def _remember(self, decoded: Decoded) -> None:
        if self._cache is not None:
            self._cache[decoded.index_B], self._label[decoded.index_B] = decoded.pixels_BRR3, decoded.label_B
            self._have[decoded.index_B] = True

    def _note(self, bad: dict[int, str]) -> None:
        for index, reason in bad.items():
            self._bad.add(index)
            key = self.source.key(index)
            if key not in self.skipped:
                self.skipped[key] = reason
                logger.warning("skipped: %s", reason)
