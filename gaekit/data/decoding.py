"""Decoding and cropping images by their index, here or in worker processes, with a policy for those that are broken."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gaekit.api import ImageSource
from gaekit.data.crop import center_crop
from gaekit.errors import BadImage, DataError, GaekitError, MachineFailed

Item = TypeVar("Item")
OnBadImage = Literal["error", "skip"]
Crop = tuple[NDArray[np.uint8], int]
"""The pixels of an image and its label."""


@dataclass(frozen=True)
class Request:
    """Images to decode. With `stand_in` the next readable image takes the place of one that is skipped."""

    indices: tuple[int, ...]
    stand_in: bool


@dataclass
class Decoded:
    """What became of a request: `place` are the positions in it that were filled, `index` the images that fill them.

    `bad` are the images skipped on the way; `failure` ends everything: it is raised where the batch is used.
    """

    pixels_BRR3: Tensor
    label_B: Tensor
    index_B: Tensor
    place_B: Tensor
    bad: dict[int, str] = field(default_factory=dict)
    failure: tuple[type[GaekitError], str] | None = None


class Decoder(Dataset[Decoded]):
    """Decodes requests from one split; a copy of it lives in each worker process."""

    def __init__(self, source: ImageSource, size: int, on_bad_image: OnBadImage):
        self.source, self.size, self.on_bad_image = source, size, on_bad_image

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, request: Request) -> Decoded:
        """Carry out one request; what the user must hear of comes back as `failure`, whole across processes."""
        bad: dict[int, str] = {}
        try:
            return self._decode(request, bad)
        except GaekitError as error:
            return Decoded(*self._tensors([]), bad=bad, failure=(type(error), str(error)))

    def _decode(self, request: Request, bad: dict[int, str]) -> Decoded:
        rows = []
        crops: dict[int, Crop] = {}  # a batch larger than the split asks for the same images again
        for place, index in enumerate(request.indices):
            chosen = self._readable(index, request.stand_in, crops, bad)
            if chosen is not None:
                rows.append((*crops[chosen], chosen, place))
        return Decoded(*self._tensors(rows), bad=bad)

    def _readable(self, index: int, stand_in: bool, crops: dict[int, Crop], bad: dict[int, str]) -> int | None:
        for offset in range(len(self) if stand_in else 1):
            candidate = (index + offset) % len(self)
            try:
                if candidate not in crops and candidate not in bad:
                    image, label = self.source[candidate]
                    crops[candidate] = center_crop(image, self.size), label
            except BadImage as error:
                if self.on_bad_image == "error":
                    raise
                bad[candidate] = str(error)
            if candidate in crops:
                return candidate
        if stand_in:
            raise DataError(f"none of the {len(self)} images can be decoded; the last reason: {list(bad.values())[-1]}")
        return None

    def _tensors(
        self, rows: Sequence[tuple[NDArray[np.uint8], int, int, int]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pixels = np.zeros((len(rows), self.size, self.size, 3), dtype=np.uint8)
        numbers = np.zeros((3, len(rows)), dtype=np.int64)
        for i, (crop, *rest) in enumerate(rows):
            pixels[i], numbers[:, i] = crop, rest
        label, index, place = torch.from_numpy(numbers)
        return torch.from_numpy(pixels), label, index, place


class _Requests(Sampler[Any]):
    """Hands requests to the worker processes one by one, as they have room."""

    def __init__(self, requests: Iterable[Any]):
        self.requests = requests

    def __iter__(self) -> Iterator[Any]:
        return iter(self.requests)


def decode_ahead(decoder: Decoder, requests: Iterable[Request], workers: int) -> Iterator[Decoded]:
    """Carry out requests in their order, in `workers` processes that run ahead; here and now if there are none.

    Raises what a user must hear of where its batch would have been, and MachineFailed if a worker dies.
    """
    with closing(ahead(decoder, requests, workers)) as answers:
        for decoded in answers:
            yield _checked(decoded)


def ahead(items: Dataset[Item], requests: Iterable[Any], workers: int) -> Generator[Item, None, None]:
    """`items[request]` for each request in order, from `workers` processes that run ahead; here and now if there are
    none. Raises MachineFailed if a worker dies. When it is closed, no process is left."""
    if workers == 0:
        yield from (items[request] for request in requests)
        return
    # batch_size=None: a request is one item. A generator of its own keeps torch's global random state untouched.
    loader: DataLoader[Item] = DataLoader(
        items, sampler=_Requests(requests), batch_size=None, num_workers=workers, worker_init_fn=_ignore_signals,
        collate_fn=_as_it_is, generator=torch.Generator(),
    )  # fmt: skip
    answers = iter(loader)
    died = ""
    try:
        while (answer := next(answers, None)) is not None:
            yield answer
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        died = str(error)
    finally:
        # Here and now: left to the garbage collector, workers would be joined by whatever thread it happens to run in.
        del answers
    if died:
        raise MachineFailed(f"a process that decodes images died ({died}); if memory ran out, lower runtime.workers")


def _checked(decoded: Decoded) -> Decoded:
    if decoded.failure is not None:
        kind, message = decoded.failure
        raise kind(message)
    return decoded


def _as_it_is(decoded: Any) -> Any:
    return decoded


def _ignore_signals(worker: int) -> None:
    # Ctrl-C and a scheduler's warning may reach every process of a run. The training answers by saving at the end of a
    # step, for which it needs the workers alive; they end with it, or when it alone says so.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS cannot tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent.pid:
            os._exit(0)
