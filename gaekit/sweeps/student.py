"""Student's t: the interval in which a mean lies, by a few values of a normal distribution of unknown spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gaekit.intervals import student_t

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """The mean of `n` values, and half the width of its interval at the level 0.95; None of a single value."""

    value: float
    half: float | None
    n: int


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and interval of one value or more: mean +- t(n - 1) s / sqrt(n), s^2 = sum (value - mean)^2 / (n - 1)."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Mean(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Mean(mean, student_t(n - 1) * deviation / math.sqrt(n), n)
