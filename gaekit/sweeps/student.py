"""Student's t: the interval in which a mean lies, by a few values of a normal distribution of unknown spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    return Mean(mean, t_quantile(n - 1) * deviation / math.sqrt(n), n)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| <= t) = level, by bisection over the angle arctan(t / sqrt(freedom))."""
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|T| <= t) at the angle: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    cos, odd = math.cos(angle), freedom % 2
    term = total = 0.0
    for k in range(freedom // 2):
        term = 1.0 if k == 0 else term * cos * cos * (2 * k - 1 + odd) / (2 * k + odd)
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * cos * total)
    return math.sin(angle) * total
