"""What is shown of a wait: a bar on a terminal, and in a log a line every half minute whether or not anything moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from gaekit.api import progress
from gaekit.train.progress import Bar, Reporter, short
from gaekit.waiting import counted, showing


class Log(StringIO):
    """A log file that wakes who waits for a line."""

    def __init__(self) -> None:
        super().__init__()
        self.grew = threading.Condition()

    def write(self, text: str) -> int:
        with self.grew:
            written = super().write(text)
            self.grew.notify_all()
        return written

    def wait_for(self, text: str) -> str:
        with self.grew:
            assert self.grew.wait_for(lambda: text in self.getvalue(), timeout=20), self.getvalue()
        return self.getvalue()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr("gaekit.train.progress.SECONDS_BETWEEN_LINES", 0.02)
    return Log()


def test_a_log_is_told_before_the_first_item_is_done_and_while_a_long_one_lasts(log: Log) -> None:
    with Reporter(Console(file=log)).bar("samples", 3) as bar:
        log.wait_for("  samples 0/3  0 s so far")
        bar.advance()
        log.wait_for("  samples 1/3  ")
        bar.within(0.5)
        log.wait_for("samples 1/3")
    before = log.getvalue()
    time.sleep(0.06)
    assert log.getvalue() == before  # and nothing after the end


def test_the_time_left_counts_what_is_done_of_the_present_item(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gaekit.train.progress.time.monotonic", lambda: now)
    bar = Bar(Console(quiet=True), "samples", 4, done=1)
    now = 110.0
    bar.within(0.5)
    assert bar.line() == "  samples 1/4  50 s left"
    bar.advance(numbers={"loss": 0.25})
    assert bar.line() == "  samples 2/4  loss 0.25  0.1 images/s  20 s left"
    now = 100.0 + 7200
    assert bar.line().endswith("4 h left")


def test_what_cannot_tell_how_far_it_is_tells_how_long_it_has_taken(log: Log) -> None:
    with Reporter(Console(file=log)).waiting("computing fid"):
        log.wait_for("  computing fid: 0 s so far\n")


def test_loops_of_plugins_are_shown_to_whoever_looks_and_to_nobody_else(log: Log) -> None:
    items: Callable[[], list[int]] = lambda: list(progress([1, 2, 3], "reading", 3))  # noqa: E731
    assert items() == [1, 2, 3]
    with showing(Reporter(Console(file=log)).slow_bar), counted("reading x once", 2) as counter:
        counter.advance()
        log.wait_for("  reading x once 1/2  ")
        assert items() == [1, 2, 3]
    with counted("unseen", 2) as counter:
        counter.advance()


def test_a_terminal_shows_a_bar_and_clears_it_and_one_within_another_takes_its_place() -> None:
    screen = StringIO()
    reporter = Reporter(Console(file=screen, force_terminal=True, width=80))
    with reporter.bar("outer", 2) as outer:
        outer.advance()
        with reporter.bar("inner", 2):
            reporter.say("a line")
        outer.advance()
    shown = screen.getvalue()
    assert "outer" in shown
    assert "inner" in shown
    assert "a line" in shown
    assert "1/2" in shown
    assert not Bar._shown


def test_what_is_done_at_once_is_not_shown_on_a_terminal() -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Reporter(console).waiting("looking"), Reporter(console).slow_bar("reading", 3, "files") as bar:
        bar.advance(3)
    assert not screen.getvalue()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.1234, "0.123"), (12.34, "12.3"), (999.4, "999"), (999.6, "1k"), (4567.0, "4.57k"), (7.89e6, "7.89M")],
)
def test_rates_are_short(number: float, text: str) -> None:
    assert short(number) == text
