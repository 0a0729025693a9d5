"""Progress for a person: a bar on a terminal, a line every half minute in a log file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gaekit.store.files import human_duration
from gaekit.terminal import Terminal, printable

SECONDS_BETWEEN_LINES = 30.0
SECONDS_UNTIL_SHOWN = 2.0
"""How long what may be short is waited for before anything is shown of it."""


class Bar:
    """One task's progress; `unit` is what is counted a second. Without a `total` the time so far is all that is known.
    `on_images` is told this process's share of the images, where `ranks` of them are counted together.

    On a terminal it appears after `delay` seconds. Elsewhere a thread prints a line every half minute, also where
    nothing was counted meanwhile.
    """

    _shown: ClassVar[list[Bar]] = []
    """Those on the terminal, of which the last is seen: one that begins within another takes its place."""

    def __init__(
        self,
        console: Console,
        title: str,
        total: int | None,
        done: int = 0,
        unit: str = "images",
        delay: float = 0.0,
        on_images: Callable[[int], None] = lambda count: None,
        ranks: int = 1,
    ):
        self.console, self.title, self.total, self.done, self.unit = console, title, total, done, unit
        self._on_images, self._ranks = on_images, ranks
        self._start, self._first, self._part, self._text = time.monotonic(), done, 0.0, ""
        self._delay, self._ended, self._turn = delay, threading.Event(), threading.Lock()
        self._progress: Progress | None = None

    def advance(self, by: int = 1, *, per: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        """Count `by` more; `per` units each; `numbers` are shown beside the bar."""
        self.done += by
        if self.unit == "images":
            self._on_images(by * per // self._ranks)
        self._part = 0.0
        rate = (self.done - self._first) * per / max(time.monotonic() - self._start, 1e-9)
        shown = [f"{name} {value:.4g}" for name, value in (numbers or {}).items()]
        self._text = "  ".join([*shown, f"{short(rate)} {self.unit}/s"])
        self._update()

    def within(self, part: float) -> None:
        """Say how much of the next one is done, a share between 0 and 1."""
        self._part = part
        self._update()

    @contextmanager
    def left_out(self, text: str) -> Iterator[None]:
        """For what is no part of what is counted, and takes time: `text` is shown meanwhile, and the rate is without
        it."""
        start, self._text = time.monotonic(), text
        self._update()
        yield
        self._start += time.monotonic() - start

    def line(self) -> str:
        """What a log is told: how far, how fast, and the time that is left."""
        seconds, moved = time.monotonic() - self._start, self.done + self._part - self._first
        if self.total is None:
            return f"  {self.title}: {human_duration(round(seconds))} so far"
        left = "" if moved <= 0 else human_duration(round((self.total - self.done - self._part) * seconds / moved))
        told = [self._text, f"{left} left" if left else f"{human_duration(round(seconds))} so far"]
        return "  ".join(["", f"{self.title} {self.done}/{self.total}", *filter(None, told)])

    def __enter__(self) -> Bar:
        if self.console.is_terminal and not self._delay:
            self._show()
        elif not self.console.quiet:
            threading.Thread(target=self._watch, name=f"progress of {self.title}", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        with self._turn:
            if self in Bar._shown:
                Bar._shown.remove(self)
                if self._progress:
                    self._progress.stop()
                if Bar._shown and (before := Bar._shown[-1]._progress):
                    before.start()

    def _watch(self) -> None:
        if self.console.is_terminal:
            if not self._ended.wait(self._delay):
                self._show()
            return
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            self.console.print(printable(self.line()), highlight=False, markup=False, soft_wrap=True)

    def _show(self) -> None:
        with self._turn:
            if self._ended.is_set():
                return
            if Bar._shown and (before := Bar._shown[-1]._progress):
                before.stop()
            self._progress = Progress(*self._columns(), console=self.console, transient=True)
            self._progress.add_task(self.title, total=self.total, completed=self.done, text=self._text)
            Bar._shown.append(self)
            self._progress.start()
        self._update()

    def _columns(self) -> list[ProgressColumn]:
        title = TextColumn("  {task.description}", markup=False)
        if self.total is None:
            return [title, SpinnerColumn(), TimeElapsedColumn()]
        text = TextColumn("{task.fields[text]}", markup=False)
        return [title, BarColumn(16), MofNCompleteColumn(), text, TimeRemainingColumn(elapsed_when_finished=True)]

    def _update(self) -> None:
        if self._progress:
            self._progress.update(self._progress.task_ids[0], completed=self.done + self._part, text=self._text)


def short(number: float) -> str:
    """Three digits, in thousands or millions where it is large: 12.3, 4.56k, 7.89M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


class Reporter:
    """Where a run tells what it does; `on_images` is called with the images of this process that a bar advances by."""

    def __init__(self, console: Console | None = None):
        self.console = console or Terminal(stderr=True)
        self.on_images: Callable[[int], None] = lambda count: None

    def say(self, text: str) -> None:
        """One line, as it is."""
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0, unit: str = "images", ranks: int = 1) -> Iterator[Bar]:
        """A progress bar for the length of the block, which counts for `ranks` processes that do as much each."""
        with Bar(self.console, title, total, done, unit, on_images=self.on_images, ranks=ranks) as bar:
            yield bar

    @contextmanager
    def slow_bar(self, title: str, total: int, unit: str) -> Iterator[Bar]:
        """A progress bar for what is often done at once: it appears after two seconds. For `gaekit.waiting.showing`."""
        with Bar(self.console, title, total, unit=unit, delay=SECONDS_UNTIL_SHOWN) as bar:
            yield bar

    @contextmanager
    def waiting(self, title: str) -> Iterator[None]:
        """For what may take long and cannot tell how far it is: after two seconds, the time so far."""
        with Bar(self.console, title, None, delay=SECONDS_UNTIL_SHOWN):
            yield
