"""Shards of a data set: files here or at a URL, which are fetched whole into the cache folder when first needed."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path

from gaekit.api import DataAbsent, DataError, MachineFailed
from gaekit_datasets.cache import VARIABLE, cache_folder, locked

REMOTE = ("http://", "https://", "file://")
TRIES = 3
PAUSE = 2.0
TIMEOUT = 60.0
"""Seconds: between tries, and without an answer."""


@dataclass(frozen=True)
class Shard:
    """`where` is a path or a URL; `name` tells it from the others, wherever they all lie; `total` are its bytes, where
    they are known."""

    where: str
    name: str
    total: int | None = None

    @property
    def remote(self) -> bool:
        """Whether it lies at a URL."""
        return self.where.startswith(REMOTE)

    def path(self) -> Path:
        """The file, fetched first if need be. Raises DataAbsent, DataError, MachineFailed."""
        return fetched(self.where, self.total) if self.remote else Path(self.where)

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`. Raises DataError if the shard is shorter, MachineFailed where the disk fails."""
        path = self.path()
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except FileNotFoundError as error:
            raise DataAbsent(f"shard {self.where} is gone: it was there when the run began") from error
        except OSError as error:
            raise MachineFailed(f"shard {self.where}: cannot be read: {error}") from error
        if len(data) < size:
            raise DataError(f"shard {self.where} is shorter than when it was indexed: it ends at {start + len(data)}")
        return data


def shards_of(patterns: str | tuple[str, ...], setting: str, prefix: str = "") -> list[Shard]:
    """The shards that patterns name, in their order; their names are relative to the folder that holds them all, after
    `prefix`. Raises DataAbsent if one is not there, DataError if one is named twice."""
    given = (patterns,) if isinstance(patterns, str) else patterns
    places = [place for pattern in given for place in _places(pattern, setting)]
    if len(set(places)) < len(places):
        repeated = next(place for place in places if places.count(place) > 1)
        raise DataError(f"webdataset: {setting}: shard {repeated} is named twice")
    folders = [place.rpartition("/")[0] + "/" for place in places]
    common = os.path.commonprefix(folders).rpartition("/")[0]  # noqa: RUF071 -- commonpath would change URLs
    return [Shard(place, prefix + place[len(common) :].lstrip("/")) for place in places]


def _places(pattern: str, setting: str) -> Iterable[str]:
    for place in expand(pattern):
        if place.startswith(REMOTE):
            yield place
            continue
        if re.match(r"[a-z0-9]+:", place):
            raise DataError(f"webdataset: {setting}: {place}: give a path, or a URL of http, https or file")
        path = os.path.abspath(os.path.expanduser(place))
        found = sorted(glob.glob(path)) if glob.has_magic(path) else [path] if os.path.exists(path) else []
        if not found:
            raise DataAbsent(
                f"webdataset: {setting}: {place} does not exist (looked for {path}); expected there: tar files; "
                "{000..127} counts, * matches"
            )
        yield from found


def expand(pattern: str) -> list[str]:
    """A pattern with its braces written out as by a shell: {a,b} and {008..011}. Raises DataError for other braces."""
    head, opened, rest = pattern.partition("{")
    if not opened:
        return [pattern]
    inside, closed, tail = rest.partition("}")
    counted = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not closed or "{" in inside or not (counted or "," in inside):
        raise DataError(f"webdataset: '{pattern}': braces hold a range, as in {{000..127}}, or a list, as in {{a,b}}")
    options = _counted(*counted.groups()) if counted else inside.split(",")
    return [head + option + end for option in options for end in expand(tail)]


def _counted(first: str, last: str) -> list[str]:
    padded = any(len(text) > 1 and text.startswith("0") for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    start, stop = int(first), int(last)
    step = 1 if start <= stop else -1
    return [f"{number:0{width}d}" for number in range(start, stop + step, step)]


def fetched(url: str, total: int | None = None) -> Path:
    """The file of a URL in the cache folder. One process fetches it while others wait; what a stop leaves is fetched
    again. Raises DataAbsent where there is none, DataError if it comes cut off, or with other than `total` bytes."""
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rpartition('/')[2].partition('?')[0]}"
    path = cache_folder() / "shards" / name
    if path.exists():
        return path
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except OSError as error:
            raise DataError(
                f"shard {url} cannot be fetched: {path.parent} cannot be written ({error.strerror}); set {VARIABLE} to "
                "a folder that can"
            ) from error
        if not path.exists():
            _fetch(url, path, total)
    return path


def _fetch(url: str, path: Path, total: int | None) -> None:
    part = path.with_name(f"{path.name}.part")
    for left in reversed(range(TRIES)):
        if _download(url, part, last=not left):
            break
        time.sleep(PAUSE)
    size = part.stat().st_size
    if total is not None and size != total:
        raise DataError(
            f"shard {url} changed since it was indexed: {total} bytes then, {size} now; delete {cache_folder()} to "
            "have all shards fetched and indexed again"
        )
    os.replace(part, path)


def _download(url: str, part: Path, *, last: bool) -> bool:
    """Whether all of it came; on the `last` try, and where another would end the same way, raises instead."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
            promised = answer.headers.get("Content-Length")
            while block := answer.read(1 << 20):
                file.write(block)
            got = file.tell()
    except (HTTPException, OSError) as error:  # what urllib raises is an OSError too
        if getattr(error, "errno", None) in (ENOSPC, EDQUOT):
            raise MachineFailed(f"{part}: the disk is full; free some space, or set {VARIABLE} to another") from error
        if last or (isinstance(error, HTTPError) and error.code < 500):
            raise DataAbsent(f"shard {url} cannot be fetched: {error or type(error).__name__}") from error
        return False
    if last and promised is not None and got != int(promised):
        raise DataError(f"shard {url} came cut off: {got} of {promised} bytes")
    return promised is None or got == int(promised)
