"""Shards of a data set: files here or at a URL, which are fetched whole into the cache folder when first needed."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gaekit.api import DataAbsent, DataError, GaekitError, MachineFailed
from gaekit.api.download import OtherFile, download
from gaekit_datasets.cache import VARIABLE, cache_folder

REMOTE = ("http://", "https://", "file://")


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
    again. Raises DataAbsent where it cannot be had, DataError if it has other than `total` bytes."""
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rpartition('/')[2].partition('?')[0]}"
    path = cache_folder() / "shards" / name
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(url, path, size=total, mend=f"set {VARIABLE} to another folder")
    except OSError as error:
        raise DataError(
            f"shard {url} cannot be fetched: {path.parent} cannot be written ({error.strerror}); set {VARIABLE} to "
            "a folder that can"
        ) from error
    except OtherFile as error:
        raise DataError(
            f"shard {url} changed since it was indexed ({error}); delete {cache_folder()} to have all shards fetched "
            "and indexed again"
        ) from error
    except MachineFailed:
        raise
    except GaekitError as error:
        raise DataAbsent(f"shard {url} cannot be fetched: {error}") from error
    return path
