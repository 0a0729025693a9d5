"""Looking through a split before it is trained on: which images can be decoded, how large they are, of which class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from torch.utils.data import Dataset

from gaekit.api import ImageSource
from gaekit.data.decoding import ahead
from gaekit.errors import BadImage, GaekitError
from gaekit.guard import ImagePromise

CHUNK = 32


@dataclass(frozen=True)
class Look:
    """What became of one image: its label and size in pixels, or why it is `bad`."""

    index: int
    label: int = 0
    width: int = 0
    height: int = 0
    bad: str | None = None


@dataclass
class Survey:
    """What was found in a split of `total` images.

    unreadable: {key: reason}. labels: how often each label occurs among the others, of which `smaller` have a short
    side below the size asked about; `smallest` and `largest` are (key, width, height) by area, None without images.
    """

    total: int
    unreadable: dict[str, str] = field(default_factory=dict)
    labels: Counter[int] = field(default_factory=Counter)
    smallest: tuple[str, int, int] | None = None
    largest: tuple[str, int, int] | None = None
    smaller: int = 0


@dataclass(frozen=True)
class _Looks:
    looks: tuple[Look, ...] = ()
    failure: tuple[type[GaekitError], str] | None = None


class _Looker(Dataset[_Looks]):
    """Decodes ranges of a split; a copy of it lives in each worker process."""

    def __init__(self, source: ImageSource, promise: ImagePromise | None):
        self.source, self.promise = source, promise

    def __getitem__(self, span: range) -> _Looks:
        try:
            return _Looks(tuple(self._look(index) for index in span))
        except GaekitError as error:  # whole across processes
            return _Looks(failure=(type(error), str(error)))

    def _look(self, index: int) -> Look:
        try:
            image, label = self.source[index] if self.promise is None else self.promise.read(self.source, index)
        except BadImage as error:
            return Look(index, bad=str(error))
        return Look(index, label, *image.size)


def looks(source: ImageSource, workers: int, promise: ImagePromise | None = None) -> Iterator[Look]:
    """Decode every image once, in order, in `workers` processes (0: here), and hold it to the promise. Raises
    MachineFailed, and what else the source raises but BadImage."""
    spans = (range(first, min(first + CHUNK, len(source))) for first in range(0, len(source), CHUNK))
    with closing(ahead(_Looker(source, promise), spans, workers)) as answers:
        for answer in answers:
            if answer.failure is not None:
                kind, message = answer.failure
                raise kind(message)
            yield from answer.looks


def note(survey: Survey, look: Look, source: ImageSource, size: int) -> None:
    """Add an image to what was found; `size` is the side, in pixels, that training will crop to."""
    key = source.key(look.index)
    if look.bad is not None:
        survey.unreadable[key] = look.bad
        return
    survey.labels[look.label] += 1
    survey.smaller += min(look.width, look.height) < size
    found, area = (key, look.width, look.height), look.width * look.height
    if survey.smallest is None or area < survey.smallest[1] * survey.smallest[2]:
        survey.smallest = found
    if survey.largest is None or area > survey.largest[1] * survey.largest[2]:
        survey.largest = found
