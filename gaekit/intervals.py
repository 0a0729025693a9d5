"""95 % intervals of numbers about images. No torch is imported: what compares finished runs needs none.

An interval is about other images of the same making: drawn from the same sampler, or from where the held-out ones come
from, as many of them, judged against the same real images. It covers what the number would be on average. Of another
training, which a seed changes too, it says nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 10
"""Images of which a mean has an interval: of fewer, one outlier decides its width."""
Z = statistics.NormalDist().inv_cdf(0.975)
T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)
"""Student's t at 0.975 for 1 to 10 degrees of freedom."""


@dataclass(frozen=True)
class Interval:
    """Where a number lies in 95 % of repetitions: from `low` to `high`, its value between them; `method` says how that
    was found and over how many images: "95 %, Student's t over 500 images"."""

    low: float
    high: float
    method: str


def decimals(half: float, most: int = 6) -> int:
    """As many decimals as give half the width of an interval two digits, at most `most`; four where it has no width
    or no end."""
    return min(most, max(0, 1 - math.floor(math.log10(half)))) if 0 < half < math.inf else 4


def student_t(freedom: int) -> float:
    """Student's t at 0.975: from the table, beyond it by its expansion (Abramowitz and Stegun 26.7.5), to 1e-5."""
    if freedom <= len(T):
        return T[freedom - 1]
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


def mean_interval(values: Sequence[float], what: str = "images") -> Interval | None:
    """Of a mean of independent values: Student's t. None for fewer than `FEWEST`. Sums are exact, so that the order of
    the values changes no bit."""
    count = len(values)
    if count < FEWEST:
        return None
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_t(count - 1) * math.sqrt(variance / count)
    return Interval(mean - half, mean + half, f"95 %, Student's t over {count} {what}")


def prediction_interval(values: Sequence[float], what: str = "runs") -> Interval | None:
    """Where one more value of the same normal distribution lies: mean +- t(n - 1) s sqrt(1 + 1 / n), of any number of
    repetitions the share 0.95. None for a single value."""
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    half = student_t(count - 1) * statistics.stdev(values, mean) * math.sqrt(1 + 1 / count)
    return Interval(mean - half, mean + half, f"95 %, Student's t of one more of {count} {what}")


def share_interval(hits: int, count: int, what: str = "images") -> Interval:
    """Of a share of independent images: Wilson's (1927), which holds at 0 and 1 too."""
    return Interval(*wilson(hits / count, count), f"95 %, Wilson's over {count} {what}")


def wilson(share: float, count: float, quantile: float = Z) -> tuple[float, float]:
    """Wilson's bounds of a share of as many independent images, where they are worth no whole number, too; the share
    lies between them."""
    square = quantile**2 / count
    centre = (share + square / 2) / (1 + square)
    half = quantile / (1 + square) * math.sqrt((share * (1 - share) + square / 4) / count)
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def parts_interval(value: float, values: Sequence[float], what: str = "parts") -> Interval | None:
    """Of a value that is the mean of `values`, one number computed on disjoint parts of the images: Student's t over
    these, whatever the bias of so few images, which the value shares. None for a single part."""
    if len(values) < 2:
        return None
    half = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(value - half, value + half, f"95 %, Student's t over {len(values)} {what}")


def jackknife_interval(
    value: float, without: Sequence[float], without_pairs: Sequence[float], what: str, *, least: float = 0.0
) -> Interval:
    """Of any number that is at least `least`, from what it is `without` each of G groups of the images in turn: the
    delete-a-group jackknife (Shao and Wu 1989), t of G - 1 degrees of freedom.

    It is centred on the value, so that it covers the number's mean at this count of images, not at infinitely many: a
    Fréchet distance is larger for fewer of them. Where the number is not a sum over images, the jackknife counts what
    any two of them make together twice; `without_pairs`, what it is without the groups 0 and 1, 2 and 3 and so on,
    takes the half of that back (Efron and Stein 1981, section 5). It may be left out: the interval is wider then.
    """
    groups = len(without)
    mean = math.fsum(without) / groups
    variance = (groups - 1) / groups * math.fsum((other - mean) ** 2 for other in without)
    if without_pairs:
        alone = zip(without[::2], without[1::2], without_pairs, strict=True)
        both = [groups * value - (groups - 1) * (a + b) + (groups - 2) * pair for a, b, pair in alone]
        variance = max(variance / 2, variance - math.fsum(q**2 for q in both) / len(both) / 2)
    half = student_t(groups - 1) * math.sqrt(variance)
    return Interval(max(least, value - half), value + half, f"95 %, jackknife over {groups} groups of {what}")


def difference_interval(
    value: float, interval: tuple[float, float], other: float, other_interval: tuple[float, float]
) -> tuple[float, float]:
    """The 95 % interval of `other - value`, two independent estimates, from the interval of each: their errors towards
    each other add up as squares (Newcombe 1998 for shares; Zou and Donner 2008 for any number). For symmetric intervals
    it is the normal one."""
    difference = other - value
    below = math.hypot(other - other_interval[0], interval[1] - value)
    above = math.hypot(other_interval[1] - other, value - interval[0])
    return difference - below, difference + above
