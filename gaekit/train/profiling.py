"""A profile of some steps of a training: a trace to look at, and where the time went in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

SHOWN = 8
"""Operations that are told, those that took most time by themselves."""


@dataclass
class StepProfile:
    """Profiles the steps `steps`, first and last (counted from 1, both included), by torch's profiler, as far as the
    training takes them, writes a Chrome trace to `folder` and says by `say` where the time went. None profiles
    nothing."""

    steps: tuple[int, int] | None
    folder: Path
    device: torch.device
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._profiler: profile | None = None
        self._begun = self._ended = 0

    def begin_step(self, step: int) -> None:
        """Call it before step `step`: the profile begins at the first of its steps that is taken."""
        if self.steps and self._profiler is None and self.steps[0] <= step <= self.steps[1]:
            cuda = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
            self._profiler, self._begun = profile(activities=[ProfilerActivity.CPU, *cuda], acc_events=True), step
            self._profiler.start()

    def end_step(self, step: int) -> None:
        """Call it after step `step`; after the last of its steps the profile waits for the device and is written."""
        self._ended = step
        if self.steps and step == self.steps[1]:
            self.close()

    def close(self) -> None:
        """Write a profile that is under way: the training takes no more steps."""
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()
            if self._ended >= self._begun:
                self._tell(profiler, f"steps-{self._begun}-{self._ended}.json.gz")

    def _tell(self, profiler: profile, name: str) -> None:
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
            self.say(f"  runtime.profile: {path}, for chrome://tracing or ui.perfetto.dev")
        except OSError as error:  # no reason to end a training
            self.say(f"  runtime.profile: the trace was not written: {path}: {error.strerror or error}")
        for line in time_by_operation(profiler, self.device):
            self.say(f"    {line}")


def time_by_operation(profiler: profile, device: torch.device, shown: int = SHOWN) -> list[str]:
    """A line for each of the operations that took most time by themselves, on the CUDA device or else on the CPU: its
    share of the time of all, milliseconds, how often it ran, its name."""
    cuda = device.type == "cuda"
    found = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
    ]
    total = sum(time for time, *_ in found) or 1.0
    found = sorted((row for row in found if row[0] > 0), reverse=True)[:shown]
    return [
        f"{time / total:6.1%} {time / 1000:10.2f} ms {count:7d} x  {key} ({'CUDA' if cuda else 'CPU'})"
        for time, count, key in found
    ]
