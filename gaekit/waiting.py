"""How what takes long tells how far it is, wherever in gaekit or a plugin it is done, to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Counter(Protocol):
    """What counts; a bar, where one is shown."""

    def advance(self, by: int = 1) -> None:
        """Count `by` more."""
        ...


class _Unseen:
    def advance(self, by: int = 1) -> None:
        pass


Bars = Callable[[str, int, str], AbstractContextManager[Counter]]
"""(title, total, unit) -> a counter that is shown for the length of a block."""
_bars: ContextVar[Bars | None] = ContextVar("bars", default=None)


@contextmanager
def showing(bars: Bars) -> Iterator[None]:
    """Have what takes long within this block shown by `bars`."""
    token = _bars.set(bars)
    try:
        yield
    finally:
        _bars.reset(token)


def counted(title: str, total: int, unit: str = "files") -> AbstractContextManager[Counter]:
    """A counter to `total` for the length of a block: where somebody looks, a bar with the time that is left."""
    bars = _bars.get()
    return nullcontext(_Unseen()) if bars is None else bars(title, total, unit)


def progress(items: Iterable[T], title: str, total: int, unit: str = "files") -> Iterator[T]:
    """The items, one by one; where somebody looks, with a bar of how many of `total` have been dealt with."""
    with counted(title, total, unit) as counter:
        for item in items:
            yield item
            counter.advance()
