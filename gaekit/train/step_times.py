"""Measuring a training: so many steps, and how long each took."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch


@dataclass
class StepTimes:
    """Seconds of the steps of a training, the first excepted, which warms up; the training ends after `most` of them,
    or where they have taken `enough` seconds together."""

    most: int
    enough: float
    seconds: list[float] = field(default_factory=list)
    _before: float | None = None

    @property
    def median(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.seconds)

    def end_step(self, device: torch.device) -> bool:
        """Count a step that has ended, its work on the device included; -> whether these are enough."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        if self._before is not None:
            self.seconds.append(now - self._before)
        self._before = now
        return len(self.seconds) >= self.most or sum(self.seconds) >= self.enough
