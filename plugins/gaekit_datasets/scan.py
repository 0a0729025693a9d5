"""Finding the images below a folder: which there are, in a fixed order, and what they are called."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaekit.api import DataAbsent, DataError, files_below, list_folder

THREADS = 8
SOURCE = "image_folder"
Stamp = tuple[int, int, int]
"""Of a file: bytes, time of change of its contents, time of change of its entry, both in nanoseconds."""

GONE = (-1, 0, 0)
"""Of a link that leads nowhere: listed, so that it is named when it is visited."""


@dataclass
class Found:
    """What lies below one folder: {name relative to the root: stamp}, and how the names of other files end."""

    files: dict[str, Stamp] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


@dataclass
class Tree:
    """A root: what lies in it directly, and below each of its sub-folders."""

    root: Path
    top: Found
    folders: dict[str, Found]

    @property
    def others(self) -> Counter[str]:
        """How the names of all files end that are not listed."""
        return sum((found.others for found in self.folders.values()), Counter(self.top.others))


class Names:
    """Relative names of many files in two flat arrays: a list of a million strings would be copied into each worker
    process as soon as it is read there."""

    def __init__(self, names: Sequence[str]):
        encoded = [os.fsencode(name) for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends: NDArray[np.int64] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Names:
        """The names that `arrays` were made of."""
        names = cls(())
        names._bytes, names._ends = arrays["bytes"], arrays["ends"]
        return names

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All names as two arrays: their bytes, and where each begins (with the end of the last)."""
        return {"bytes": self._bytes, "ends": self._ends}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Names)
            and np.array_equal(self._ends, other._ends)
            and np.array_equal(self._bytes, other._bytes)
        )

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def scan(root: Path, extensions: tuple[str, ...], setting: str) -> Tree:
    """List the images below `root`. `setting` is the recipe's name for it, in messages.

    Raises DataAbsent if there is no such folder, DataError if it cannot be read.
    """
    if not root.exists():
        here = "" if root.is_absolute() else f" (looked in {Path.cwd()})"
        raise DataAbsent(
            f"image_folder: {setting}: {root} does not exist{here}; expected there: a sub-folder of images for each "
            f"class, or images alone to train without classes ({', '.join(extensions)})"
        )
    if not root.is_dir():
        raise DataError(f"image_folder: {setting}: {root} is a file; give the folder that holds the images")
    top = Found()
    files, names = list_folder(root, SOURCE)
    for entry in files:
        _take(entry, entry.name, top, extensions)
    names.sort()
    with ThreadPoolExecutor(THREADS) as pool:  # network disks answer slowly, and many questions at a time
        found = list(pool.map(lambda name: _below(root, name, extensions), names))
    return Tree(root, top, dict(zip(names, found, strict=True)))


def _below(root: Path, folder: str, extensions: tuple[str, ...]) -> Found:
    found = Found()
    for name, entry in files_below(root, folder, SOURCE):
        _take(entry, name, found, extensions)
    return found


def _take(entry: os.DirEntry[str], name: str, found: Found, extensions: tuple[str, ...]) -> None:
    ending = os.path.splitext(entry.name)[1].lower()
    if ending not in extensions:
        found.others[ending or "no extension"] += 1
        return
    try:
        status = entry.stat()
    except OSError:
        found.files[name] = GONE
        return
    if stat.S_ISREG(status.st_mode):
        found.files[name] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    else:  # a pipe would be waited on for ever
        found.others["no regular file"] += 1
