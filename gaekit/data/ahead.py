"""Making the next batch ready while one is used."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()
_THREADS: set[ThreadPoolExecutor] = set()
"""Those of generators that are not closed yet. A generator that an error left in a cycle is closed by the garbage
collector, together with all that nothing else holds: its thread would have ended by then, and closing wait for ever."""


def one_ahead(batches: Generator[T, None, None], ready: Callable[[T], T]) -> Generator[T, None, None]:
    """ready(batch) of every batch, in order; a thread makes the next one while one is used.

    All of `batches` runs in that thread, which also starts the processes that decode for it. What is raised there is
    raised here, where its batch would have been. When this is closed, `batches` is closed too.
    """
    with ThreadPoolExecutor(1, "batches") as thread:
        _THREADS.add(thread)

        def following() -> T:
            batch = next(batches, _END)
            return batch if batch is _END else ready(batch)

        coming = thread.submit(following)
        try:
            while (batch := coming.result()) is not _END:
                coming = thread.submit(following)
                yield batch
        finally:
            wait([coming])
            thread.submit(batches.close).result()
            _THREADS.discard(thread)
