"""Decoding and cropping images by their index, here or in worker processes, with a policy for those that are broken."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gaekit.api import ImageSource
from gaekit.data.crop import center_crop
from gaekit.errors import BadImage, DataError, GaekitError, MachineFailed
from gaekit.guard import ImagePromise
from gaekit.parallel import local_ranks

Item = TypeVar("Item")
OnBadImage = Literal["error", "skip"]


Failure = tuple[type[GaekitError], str]
Answer = tuple[NDArray[np.int64], dict[int, str], Failure | None]
"""(labels, indices and places (3, n); the images skipped; what ends everything)."""
PREFETCH = 2
"""Requests that each process has before it."""
SHARED = Path("/dev/shm")


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
    failure: Failure | None = None


class Decoder(Dataset[Decoded]):
    """Decodes requests from one split; a copy of it lives in each worker process."""

    def __init__(self, source: ImageSource, size: int, on_bad_image: OnBadImage, promise: ImagePromise | None = None):
        self.source, self.size, self.on_bad_image, self.promise = source, size, on_bad_image, promise

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, request: Request) -> Decoded:
        """Carry out one request; what the user must hear of comes back as `failure`, whole across processes."""
        work = _Work(self, request)
        try:
            for place, index in enumerate(request.indices):
                work.take(place, index)
        except GaekitError as error:
            return Decoded(*_Work(self, Request((), False)).tensors(), bad=work.bad, failure=(type(error), str(error)))
        return Decoded(*work.tensors(), bad=work.bad)


class _Work:
    """One request as it is carried out: each image goes to its row at once, so that no more than one is held beside."""

    def __init__(self, decoder: Decoder, request: Request):
        self.decoder, self.stand_in = decoder, request.stand_in
        self._rows = np.empty((len(request.indices), decoder.size, decoder.size, 3), dtype=np.uint8)
        self.numbers: list[tuple[int, int, int]] = []
        self.bad: dict[int, str] = {}
        self._row_of: dict[int, int] = {}  # a batch larger than the split asks for the same images again

    def take(self, place: int, index: int) -> None:
        """Fill the next row with the image, or with the next readable one that stands in."""
        size = len(self.decoder)
        for offset in range(size if self.stand_in else 1):
            candidate = (index + offset) % size
            label = self._label_of_decoded(candidate)
            if label is not None:
                self.numbers.append((label, candidate, place))
                return
        if self.stand_in:
            last = list(self.bad.values())[-1]
            raise DataError(f"none of the {size} images can be decoded; the last reason: {last}")

    def _label_of_decoded(self, index: int) -> int | None:
        """Decode an image into the next row; its label, or None where it is broken and that is no error."""
        row = len(self.numbers)
        if index in self.bad:
            return None
        if index in self._row_of:
            before = self._row_of[index]
            self._rows[row] = self._rows[before]
            return self.numbers[before][0]
        try:
            source, promise = self.decoder.source, self.decoder.promise
            image, label = source[index] if promise is None else promise.read(source, index)
            self._rows[row] = center_crop(image, self.decoder.size)
        except BadImage as error:
            if self.decoder.on_bad_image == "error":
                raise
            self.bad[index] = str(error)
            return None
        self._row_of[index] = row
        return label

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(pixels, labels, indices, places) of the rows that were filled."""
        label, index, place = torch.tensor(self.numbers, dtype=torch.int64).reshape(-1, 3).T.contiguous()
        return torch.from_numpy(self._rows[: len(self.numbers)]), label, index, place


class _Requests(Sampler[Any]):
    """Hands requests to the worker processes one by one, as they have room."""

    def __init__(self, requests: Iterable[Any]):
        self.requests = requests

    def __iter__(self) -> Iterator[Any]:
        return iter(self.requests)


def decode_ahead(
    decoder: Decoder, requests: Iterable[Request], workers: int, most: int
) -> Generator[Decoded, None, None]:
    """Carry out requests in their order, in `workers` processes that run ahead; here and now if there are none. No
    request is for more than `most` images.

    Raises what a user must hear of where its batch would have been, and MachineFailed if a worker dies.
    """
    if workers == 0:
        yield from (_checked(decoder[request]) for request in requests)
        return
    shelf = _new_shelf(workers, most, decoder.size)
    numbered = ((place % len(shelf), request) for place, request in enumerate(requests))
    with closing(ahead(_Shelved(decoder, shelf), numbered, workers)) as answers:
        for place, (numbers, bad, failure) in enumerate(answers):
            rows = shelf[place % len(shelf), : numbers.shape[1]].numpy()
            label, index, where = torch.from_numpy(numbers)
            yield _checked(Decoded(torch.from_numpy(rows.copy()), label, index, where, bad, failure))


class _Shelved(Dataset[Answer]):
    """A decoder that leaves pixels on a shelf, memory that both processes see. It is used again and again: memory that
    is new for every batch costs as much time as a fourth of its decoding. The few numbers go as they are: torch would
    make shared memory of each tensor."""

    def __init__(self, decoder: Decoder, shelf: Tensor):
        self.decoder, self.shelf = decoder, shelf

    def __getitem__(self, numbered: tuple[int, Request]) -> Answer:
        """(place on the shelf, request) -> the answer without pixels."""
        place, request = numbered
        decoded = self.decoder[request]
        self.shelf[place, : len(decoded.label_B)] = decoded.pixels_BRR3
        numbers = torch.stack([decoded.label_B, decoded.index_B, decoded.place_B]).numpy()
        return numbers, decoded.bad, decoded.failure


def _new_shelf(workers: int, most: int, size: int) -> Tensor:
    """Places (count, most, R, R, 3): one for each batch that may be under way, one for that which is being taken."""
    shape = (workers * PREFETCH + 1, most, size, size, 3)
    needed = math.prod(shape)
    ranks = local_ranks()  # each of them makes such a shelf, and takes the memory only as batches come
    free = shutil.disk_usage(SHARED).free if SHARED.is_dir() else ranks * needed
    if free < ranks * needed:
        here = f"{ranks} ranks on this machine, each with " if ranks > 1 else ""
        raise MachineFailed(
            f"{SHARED}: {here}{workers} processes that decode batches of {most} need {ranks * needed / 1e9:.1f} GB of "
            f"shared memory, {free / 1e9:.1f} GB are free; lower runtime.workers, or give the container more (docker: "
            "--shm-size)"
        )
    # Not `share_memory_`, which would fill all of it at once.
    storage = torch.UntypedStorage._new_shared(needed)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def ahead(items: Dataset[Item], requests: Iterable[Any], workers: int) -> Generator[Item, None, None]:
    """`items[request]` for each request in order, from `workers` processes that run ahead; here and now if there are
    none. Raises MachineFailed if a worker dies. When it is closed, no process is left."""
    if workers == 0:
        yield from (items[request] for request in requests)
        return
    # batch_size=None: a request is one item. A generator of its own keeps torch's global random state untouched.
    loader: DataLoader[Item] = DataLoader(
        items, sampler=_Requests(requests), batch_size=None, num_workers=workers, prefetch_factor=PREFETCH,
        worker_init_fn=_ignore_signals, collate_fn=_as_it_is, generator=torch.Generator(),
    )  # fmt: skip
    answers = iter(loader)
    died: MachineFailed | None = None
    try:
        while (answer := next(answers, None)) is not None:
            yield answer
    except RuntimeError as error:
        died = dead_worker(error)
        if died is None:
            raise
    finally:
        # Here and now: left to the garbage collector, workers would be joined by whatever thread it happens to run in.
        del answers
    if died:
        raise died


def dead_worker(error: RuntimeError) -> MachineFailed | None:
    """What to tell where torch says that a process that decodes images died; None for any other error. torch says so
    wherever the main thread is at that moment, by its handler of SIGCHLD."""
    if "DataLoader worker" not in str(error):
        return None
    return MachineFailed(f"a process that decodes images died ({error}); if memory ran out, lower runtime.workers")


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
