"""Numbers of several runs beside each other: which can be compared, and which differences are more than chance.

The test: the 95 % interval of the difference holds no 0. Where both runs kept every image's own value of the same
held-out images, that interval is Student's t of the differences image by image. Otherwise it is made from the two
numbers' own intervals, as of independent estimates.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gaekit.errors import ArtifactError
from gaekit.inside import require_regular
from gaekit.intervals import difference_interval, mean_interval
from gaekit.runs.compare.settings import ABSENT, leaves, text_of
from gaekit.store.record import is_finite

PER_IMAGE = "per_image.npz"
LARGEST_PER_IMAGE = 1 << 30
"""Bytes of it, unpacked: a hundred numbers of each image of ImageNet."""
OUTCOMES = frozenset(
    ("samples", "sampling", "interval", "capped", "converged", "real_accuracy", "inception_score_std", "latent",
     "warning", "reference.file", "unit", "mean", "std", "excess_kurtosis", "low_of_white_noise", "cutoff_cycles")
)  # fmt: skip
"""Keys of a protocol that tell what was judged or found, not how: they may differ between comparable numbers."""
Verdict = Literal["higher", "lower", "no difference shown", "the same", "no interval", "not comparable", "absent"]


@dataclass(frozen=True, eq=False)
class Number:
    """An entry of metrics.json; `per_image` where the run kept each image's own value."""

    value: float
    interval: tuple[float, float] | None
    protocol: Mapping[str, Any]
    per_image: NDArray[np.float64] | None = None

    @property
    def method(self) -> str:
        """How its interval was made."""
        return str(self.protocol.get("interval", "")) if self.interval else ""


@dataclass(frozen=True)
class Change:
    """From the first run's number to another's. `interval` is that of the difference, `method` how it was made, `why`
    says what stands against comparing the two, a line each. `is_paired` where it was taken image by image."""

    verdict: Verdict
    difference: float | None = None
    interval: tuple[float, float] | None = None
    method: str = ""
    why: tuple[str, ...] = ()
    is_paired: bool = False


@dataclass(frozen=True)
class Row:
    """One number of all runs, and how those of the second and later differ from that of the first."""

    name: str
    numbers: tuple[Number | None, ...]
    changes: tuple[Change, ...]

    @property
    def is_same(self) -> bool:
        """Whether it is the same in all runs, as where these share what it is about."""
        return all(change.verdict == "the same" for change in self.changes)


def numbers_of(metrics: Mapping[str, Mapping[str, Any]], run: Path) -> dict[str, Number]:
    """What a run measured. Raises ArtifactError for an interval that is none, or a damaged per_image.npz."""
    rows = _per_image(run / PER_IMAGE)
    return {
        name: Number(
            float(entry["value"]), _interval(entry, name, run), dict(entry.get("protocol") or {}), rows.get(name)
        )
        for name, entry in metrics.items()
    }


def rows_of(numbers: Sequence[Mapping[str, Number]]) -> list[Row]:
    """Every number that any of the runs has."""
    rows = []
    for name in dict.fromkeys(name for one in numbers for name in one):
        found = tuple(one.get(name) for one in numbers)
        rows.append(Row(name, found, tuple(change(found[0], other) for other in found[1:])))
    return rows


def change(one: Number | None, other: Number | None) -> Change:
    """How `other` differs from `one`."""
    if one is None or other is None:
        return Change("absent")
    if why := obstacles(one.protocol, other.protocol):
        return Change("not comparable", why=why)
    difference = other.value - one.value
    paired = found = _paired(one, other)
    if found is None and one.interval and other.interval:
        found = difference_interval(one.value, one.interval, other.value, other.interval), "of independent images"
    if found is None:
        return Change("the same" if difference == 0 else "no interval", difference)
    (low, high), method = found
    if low == high == 0:
        return Change("the same", 0.0, (0.0, 0.0), method, is_paired=paired is not None)
    verdict: Verdict = "higher" if low > 0 else "lower" if high < 0 else "no difference shown"
    return Change(verdict, difference, (low, high), method, is_paired=paired is not None)


def obstacles(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between two protocols that decides a number beside what was judged: "n: 500 and 2000"."""
    first, second = dict(leaves(dict(one))), dict(leaves(dict(other)))
    found = []
    for key in dict.fromkeys([*first, *second]):
        a, b = first.get(key, ABSENT), second.get(key, ABSENT)
        if a != b and not is_outcome(key):
            found.append(f"{key}: {_short(a)} and {_short(b)}")
    return tuple(found)


def is_outcome(key: str) -> bool:
    """Whether a dotted key of a protocol tells what was judged or found, so that it may differ."""
    return any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in OUTCOMES)


def _short(value: Any) -> str:
    text = text_of(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _paired(one: Number, other: Number) -> tuple[tuple[float, float], str] | None:
    """The interval of the mean difference of the same images; the protocols are the same, and so is the data."""
    a, b = one.per_image, other.per_image
    if a is None or b is None or a.shape != b.shape:
        return None
    found = mean_interval((b - a).tolist())
    return None if found is None else ((found.low, found.high), f"image by image, {len(a)} images")


def _interval(entry: Mapping[str, Any], name: str, run: Path) -> tuple[float, float] | None:
    given = entry.get("interval")
    if given is None:
        return None
    if not (isinstance(given, list) and len(given) == 2 and all(map(is_finite, given))):
        raise ArtifactError(f"{run}/metrics.json: the interval of {name} is {given!r}; it must be [low, high]")
    return float(given[0]), float(given[1])


def _per_image(file: Path) -> dict[str, NDArray[np.float64]]:
    if not file.exists():
        return {}
    try:
        with zipfile.ZipFile(require_regular(file, "numbers of images")) as archive:
            if (size := sum(info.file_size for info in archive.infolist())) > LARGEST_PER_IMAGE:
                raise ValueError(f"it unpacks into {size} bytes")
        with np.load(file, allow_pickle=False) as opened:
            return {name: np.asarray(opened[name], dtype=np.float64).reshape(-1) for name in opened.files}
    except Exception as error:  # whatever zipfile and numpy raise for a damaged file
        raise ArtifactError(f"{file}: cannot be read ({error}); evaluate the run again to make it anew") from error
