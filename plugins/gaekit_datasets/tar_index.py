"""Where the samples of a tar shard lie: read once, kept, and used to read any of them alone."""

from __future__ import annotations

import json
import re
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gaekit.api import DataError, MachineFailed, open_regular
from gaekit_datasets.cache import Arrays, KeptArrays
from gaekit_datasets.contents import Hashes, Stamps, content_hash, settled
from gaekit_datasets.scan import Names
from gaekit_datasets.shards import Shard

MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
"""A member's name as WebDataset reads it: the sample's key up to the first dot of the file name, then the field."""

BLOCK = 512
LARGEST_HEAD = 1 << 20
"""Bytes of the longest record of a member's name and facts that is read; tarfile would take what the file claims."""
LARGEST_LABEL, LARGEST_IMAGE = 16 << 20, 1 << 30
"""Bytes of the longest members that are read into memory."""


@dataclass(frozen=True)
class Fields:
    """Which members of a sample are wanted: the image by the first field that it has, and the label.

    label: a field that holds it as text; `json:NAME` for the entry NAME of the field `json`; `none` for none.
    """

    image: tuple[str, ...]
    label: str

    @property
    def label_field(self) -> str | None:
        """The member that holds the label."""
        return None if self.label == "none" else self.label.partition(":")[0]


@dataclass(frozen=True)
class TarIndex:
    """The samples of one shard in their order: keys, where their images lie (N,), their hashes (N, 32), labels as they
    are written, "" for none; and the bytes of the whole shard."""

    keys: Names
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    hashes: Hashes
    written: Names
    total: int

    def __len__(self) -> int:
        return len(self.start)


def index_of(shard: Shard, fields: Fields) -> TarIndex:
    """The index of a shard: that kept, unless the file's size or times changed. A shard at a URL is taken to stay what
    it was, and is fetched only if it was not indexed. Raises DataAbsent, DataError, naming the shard."""
    place = shard.where if shard.remote else str(Path(shard.where).resolve())
    kept = KeptArrays("tar 1", place, *fields.image, "", fields.label)
    known = _recalled(kept.read(), shard)
    if known is not None:
        return known
    with kept.lock():
        return _recalled(kept.read(), shard) or _found_out(kept, shard, fields)


def _found_out(kept: KeptArrays, shard: Shard, fields: Fields) -> TarIndex:
    path, begun = shard.path(), time.time_ns()
    stamp = _stamp(path)
    index = read_tar(path, shard, fields)
    names = {f"{of}_{name}": array for of, names in (("key", index.keys), ("label", index.written))
             for name, array in names.arrays.items()}  # fmt: skip
    arrays = {"start": index.start, "size": index.size, "hashes": index.hashes, "total": index.total}
    kept.write({**names, **arrays, "stamp": settled(stamp, begun)})
    return index


def _recalled(arrays: Arrays, shard: Shard) -> TarIndex | None:
    if "stamp" not in arrays:
        return None
    if not shard.remote and not np.array_equal(arrays["stamp"], _stamp(Path(shard.where))):
        return None
    keys, written = (
        Names.of({"bytes": arrays[f"{of}_bytes"], "ends": arrays[f"{of}_ends"]}) for of in ("key", "label")
    )
    return TarIndex(keys, arrays["start"], arrays["size"], arrays["hashes"], written, int(arrays["total"]))


def _stamp(path: Path) -> Stamps:
    status = path.stat()
    return np.array([[status.st_size, status.st_mtime_ns, status.st_ctime_ns]], dtype=np.int64)


def read_tar(path: Path, shard: Shard, fields: Fields) -> TarIndex:
    """Read the headers of a whole shard, its labels, and the ends of its images."""
    try:
        with open_regular(path, "shard", DataError) as file:
            if file.read(2) == b"\x1f\x8b":
                raise DataError(f"shard {shard.where} is compressed: single images cannot be read from it; unpack it")
            file.seek(0)
            return _indexed(file, shard, fields)
    except OSError as error:
        raise MachineFailed(f"shard {shard.where}: cannot be read: {error}") from error


def _indexed(file: BinaryIO, shard: Shard, fields: Fields) -> TarIndex:
    keys, places, hashes, written = [], [], [], []
    for key, members in _samples(file, shard):
        image = next((members[field] for field in fields.image if field in members), None)
        if image is None:
            raise DataError(_lacks(shard, key, f"image ({', '.join(fields.image)})", members, "image"))
        if image.size > LARGEST_IMAGE:
            raise DataError(f"shard {shard.where}: sample '{key}': its image has {image.size} bytes, too many for one")
        keys.append(key)
        places.append((image.offset_data, image.size))
        hashes.append(content_hash(file, image.offset_data, image.size))
        written.append(_label(file, shard, key, members, fields))
    repeated, times = Counter(keys).most_common(1)[0] if keys else ("", 0)
    if times > 1:
        raise DataError(f"shard {shard.where}: {times} samples are called '{repeated}'; keys tell samples apart")
    start, size = np.array(places, dtype=np.int64).reshape(-1, 2).T
    packed = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 32)
    return TarIndex(Names(keys), start.copy(), size.copy(), packed, Names(written), file.seek(0, 2))


def _samples(file: BinaryIO, shard: Shard) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, {field: member}) of neighbours with the same key, as WebDataset groups them."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in _members(file, shard):
        named = MEMBER.fullmatch(member.name)
        if not member.isreg() or named is None or re.match(r"__[^/]*__($|/)", member.name):
            continue
        if named[1] != key and members:
            yield key, members
            members = {}
        key, field = named[1], named[2].lower()
        if field in members:
            raise DataError(f"shard {shard.where}: sample '{key}' has two members '.{field}'")
        members[field] = member
    if members:
        yield key, members


def _members(file: BinaryIO, shard: Shard) -> Iterator[tarfile.TarInfo]:
    """All members; where tarfile ends quietly at a damaged header or the end of the file, raises DataError."""
    try:
        with tarfile.open(fileobj=_Heads(file), mode="r:") as tar:  # type: ignore[call-overload]
            yield from tar
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:  # the latter of records of records
        raise DataError(f"shard {shard.where} is cut off or damaged, or no tar file: {error}") from error
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise DataError(
            f"shard {shard.where} is cut off or damaged at byte {end}: neither a member nor the end of an archive is "
            "there; fetch or pack it again"
        )


class _Heads:
    """A file of which tarfile reads heads alone, none longer than `LARGEST_HEAD`."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int = -1) -> bytes:
        """Raises ReadError for more than a head has."""
        if not 0 <= size <= LARGEST_HEAD:
            raise tarfile.ReadError(f"a record of {size} bytes where a member's name and facts stand")
        return self._file.read(size)


def _label(file: BinaryIO, shard: Shard, key: str, members: dict[str, tarfile.TarInfo], fields: Fields) -> str:
    field = fields.label_field
    if field is None:
        return ""
    if field not in members:
        raise DataError(_lacks(shard, key, f"label ({fields.label})", members, "label"))
    where = f"shard {shard.where}: sample '{key}'"
    if members[field].size > LARGEST_LABEL:
        raise DataError(f"{where}: its .{field} has {members[field].size} bytes, too many for a label")
    file.seek(members[field].offset_data)
    data = file.read(members[field].size)
    try:
        text = data.decode("utf-8").strip()
        value = json.loads(text)[fields.label.partition(":")[2]] if field == "json" else text
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: no {fields.label} in {data[:60]!r}: {type(error).__name__}: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise DataError(f"{where}: {fields.label} is {value!r}; a label is a number from 0 or a name")
    return str(value)


def _lacks(shard: Shard, key: str, what: str, members: dict[str, tarfile.TarInfo], setting: str) -> str:
    return (
        f"shard {shard.where}: sample '{key}' has no {what}; it has: {', '.join(sorted(members))}; "
        f"the setting `{setting}` says what it is called"
    )
