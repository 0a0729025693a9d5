"""What a training reports: means of scalars over an interval, pictures as grids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gaekit.api import Tracker
from gaekit.errors import GaekitError


class Meter:
    """Means of named scalars since the last `take`; sums stay on the device, so that adding costs no
    synchronisation."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._numbers: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, value: Tensor | float) -> None:
        """Add one value."""
        if isinstance(value, Tensor):
            self.add_all((name,), value.reshape(1))
        else:
            self._numbers[name] += value
            self._counts[name] += 1

    def add_all(self, names: tuple[str, ...], values: Tensor) -> None:
        """Add one value for each name."""
        values = values.detach().float()
        self._sums[names] = self._sums[names] + values if names in self._sums else values
        for name in names:
            self._counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means, and start afresh."""
        sums = defaultdict(float, self._numbers)
        for names, values in self._sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                sums[name] += value
        means = {name: total / self._counts[name] for name, total in sums.items()}
        self._sums.clear()
        self._numbers.clear()
        self._counts.clear()
        return means


def grid_of(images: Sequence[Tensor] | Tensor, columns: int, gap: int = 2) -> Tensor:
    """(3, height, width) in [0, 1] from images (3, R, R) in [-1, 1], row by row, on white."""
    stack = torch.stack(list(images)).detach().float().cpu().clamp(-1, 1) * 0.5 + 0.5
    count, channels, height, width = stack.shape
    rows = -(-count // columns)
    canvas = torch.ones(channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for index, image in enumerate(stack):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


class Trackers:
    """Several trackers as one. One that fails is told of once by `say` and left out from then on: a curve to look at is
    not worth a training. What is wrong with its settings (a GaekitError while it is made) is raised, since nothing is
    lost yet.

    makers: (name, what makes it) of each.
    """

    def __init__(self, makers: Sequence[tuple[str, Callable[[], Tracker]]] = (), say: Callable[[str], None] = print):
        self._say = say
        self._trackers: dict[int, tuple[str, Tracker]] = {}
        for number, (name, make) in enumerate(makers):
            with self._guarded(number, name):
                self._trackers[number] = (name, make())

    def log(self, step: int, scalars: dict[str, float], images: dict[str, Tensor]) -> None:
        """Pass on to each."""
        self._each(lambda tracker: tracker.log(step, scalars, images))

    def results(self, numbers: dict[str, float], images: dict[str, Tensor]) -> None:
        """Pass on to each."""
        self._each(lambda tracker: tracker.results(numbers, images))

    def close(self) -> None:
        """Close each."""
        self._each(lambda tracker: tracker.close())

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for number, (name, tracker) in list(self._trackers.items()):
            with self._guarded(number, name):
                action(tracker)

    @contextmanager
    def _guarded(self, number: int, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, GaekitError) and number not in self._trackers:
                raise
            self._trackers.pop(number, None)
            reason = str(error) or type(error).__name__
            self._say(f"warning: tracker '{name}' fails and is left out from now on, the work goes on: {reason}")
