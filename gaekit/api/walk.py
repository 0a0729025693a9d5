"""Listing what lies below a folder that somebody else filled: hidden files, links in circles, pipes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gaekit.errors import DataError

HIDDEN = ("__MACOSX", "@eaDir")
"""Folders that archives and network disks leave behind: pictures in them are copies. Names that begin with a dot are
hidden too."""
MOST_LINKS = 100
"""So often the same folder is listed, through as many links: a few that lead to each other double at each level."""
_Identity = tuple[int, int]


def list_folder(folder: Path, source: str) -> tuple[list[os.DirEntry[str]], list[str]]:
    """(what is no folder, names of the folders) in a folder, links followed, hidden ones left out, in no order.

    `source` begins errors: who wants it. Raises DataError where the folder cannot be read.
    """
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in HIDDEN:
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                else:
                    files.append(entry)
    except OSError as error:
        raise DataError(f"{source}: {folder} cannot be read: {error.strerror}") from error
    return files, folders


def files_below(root: Path, folder: str, source: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(name relative to `root`, entry) of all that is no folder below `root / folder` ("" for all), links followed,
    hidden ones left out, in no order. An entry may be a pipe, or a link that leads nowhere.

    Raises DataError for a folder that cannot be read, a link that leads back up, and links that lead to one folder a
    hundred times.
    """
    waiting: list[tuple[str, frozenset[_Identity]]] = [(folder, frozenset())]
    visits: Counter[_Identity] = Counter()
    while waiting:
        name, above = waiting.pop()
        here = _identity(root / name, source)
        visits[here] += 1
        if here in above:
            raise DataError(f"{source}: {root / name}: this link leads to a folder that it lies in; remove it")
        if visits[here] > MOST_LINKS:
            raise DataError(f"{source}: {root / name}: {MOST_LINKS} links lead to this folder; remove them")
        files, folders = list_folder(root / name, source)
        prefix = f"{name}/" if name else ""
        waiting.extend((prefix + below, above | {here}) for below in folders)
        yield from ((prefix + entry.name, entry) for entry in files)


def _identity(folder: Path, source: str) -> _Identity:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(f"{source}: {folder} cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: no folder, and named when it is visited as an image
        return False
