"""Progress for a person: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gaekit.terminal import Terminal, printable

SECONDS_BETWEEN_LINES = 30.0


class Bar:
    """One task's progress; `unit` is what is counted a second."""

    def __init__(
        self, console: Console, title: str, total: int, done: int, unit: str, on_images: Callable[[int], None]
    ):
        self.console, self.title, self.total, self.done, self.unit = console, title, total, done, unit
        self._on_images = on_images
        self._start, self._first, self._said = time.monotonic(), done, time.monotonic()
        self._progress: Progress | None = None

    def advance(self, by: int = 1, *, per: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        """Count `by` more; `per` units each; `numbers` are shown beside the bar."""
        self.done += by
        if self.unit == "images":
            self._on_images(by * per)
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._first) * per / seconds
        text = "  ".join([*(f"{k} {v:.4g}" for k, v in (numbers or {}).items()), f"{rate:.3g} {self.unit}/s"])
        if self._progress:
            self._progress.update(self._progress.task_ids[0], completed=self.done, text=text)
        elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            left = (self.total - self.done) * seconds / max(1, self.done - self._first)
            self.console.print(f"  {self.title} {self.done}/{self.total}  {text}  {left:.0f} s left", highlight=False)

    @contextmanager
    def left_out(self, text: str) -> Iterator[None]:
        """For what is no part of what is counted, and takes time: `text` is shown meanwhile, and the rate is without
        it."""
        start = time.monotonic()
        if self._progress:
            self._progress.update(self._progress.task_ids[0], text=text)
        yield
        self._start += time.monotonic() - start


class Reporter:
    """Where a run tells what it does; `on_images` is called with every count of images that a bar advances by."""

    def __init__(self, console: Console | None = None):
        self.console = console or Terminal(stderr=True)
        self.on_images: Callable[[int], None] = lambda count: None

    def say(self, text: str) -> None:
        """One line, as it is."""
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Bar]:
        """A progress bar for the length of the block."""
        bar = Bar(self.console, title, total, done, unit, self.on_images)
        if not self.console.is_terminal:
            yield bar
            return
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as progress:
            progress.add_task(title, total=total, completed=done, text="")
            bar._progress = progress
            yield bar
