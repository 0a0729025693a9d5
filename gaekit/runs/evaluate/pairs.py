"""Reconstructions and their originals, matched by the names of their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gaekit.api import ImageSource
from gaekit.data.given import FolderSource
from gaekit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 3


class Rows:
    """Some images of a source, in an order of one's own."""

    def __init__(self, source: ImageSource, rows: Sequence[int]):
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return self.source[self.rows[index]]

    def key(self, index: int) -> str:
        """That of the image."""
        return self.source.key(self.rows[index])


def matched(images: FolderSource, originals: FolderSource) -> tuple[Rows, Rows]:
    """(images, their originals) in one order. An image `a/x.png` goes with the original of that name, with `a/x` where
    it is `a/x.jpg.png` of `a/x.jpg`, as `gaekit reconstruct` names it, or with the one original `a/x.*`.

    Raises DataError where an image has no original or several, or an original no image.
    """
    place = {name: row for row, name in enumerate(originals.names)}
    by_stem: dict[str, list[str]] = {}
    for name in originals.names:
        by_stem.setdefault(_stem(name), []).append(name)
    found = {name: _original(name, place, by_stem, originals) for name in images.names}
    if alone := [name for name, original in found.items() if original is None]:
        raise DataError(f"--originals {originals.root}: has nothing that is the original of {_named(alone)}")
    chosen = [original for original in found.values() if original is not None]
    if twice := [name for name, count in Counter(chosen).items() if count > 1]:
        raise DataError(f"--originals {originals.root}: several images are of one original: {_named(twice)}")
    if left := sorted(set(place) - set(chosen)):
        raise DataError(f"{images.root}: has no reconstruction of {_named(left)} of {originals.root}")
    return Rows(images, range(len(images))), Rows(originals, [place[name] for name in chosen])


def _original(name: str, place: dict[str, int], by_stem: dict[str, list[str]], originals: FolderSource) -> str | None:
    """The name of an image's original; None where there is none."""
    for exact in (name, _stem(name)):
        if exact in place:
            return exact
    known = by_stem.get(_stem(name), [])
    if len(known) > 1:
        raise DataError(
            f"{name}: {originals.root} has {', '.join(known)}; name it after one of them, such as {known[0]}.png"
        )
    return known[0] if known else None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
