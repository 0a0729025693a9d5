"""Writing files so that a kill at any moment leaves the old or the new, never a half."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gaekit.errors import ArtifactError, MachineFailed
from gaekit.inside import require_regular

FULL = "the disk is full; free some space and run the same command again"
LARGEST_JSON = 256 << 20
"""Bytes of a JSON file that is still read: a manifest of a hundred thousand shards has a tenth of them."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on leaving it is flushed to disk and renamed. Raises MachineFailed if the
    disk is full."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_full_is_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            sync(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or what this user may have of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_full_text(text: str) -> bool:
    """Whether an error's text says so, where it has no number."""
    return "No space left" in text or "quota" in text.lower()


def full_disk(path: Path) -> OSError:
    """What writing to a full disk would raise."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def free_space(path: Path) -> int:
    """Bytes that this user may still write where `path` is or will be."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


@contextmanager
def disk_full_is_named(path: Path) -> Iterator[None]:
    """Turn `no space left`, of the system or of safetensors, into a MachineFailed that names the place."""
    try:
        yield
    except SafetensorError as error:
        if not is_full_text(str(error)):
            raise
        raise MachineFailed(f"{path}: {FULL}") from error
    except OSError as error:
        if is_full(error):
            raise MachineFailed(f"{path}: {FULL}") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise MachineFailed(
                f"{path}: cannot be written ({error.strerror}); check the folder's permissions"
            ) from error
        raise


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, deepest: int | None = None) -> Any:
    """The JSON value of a file. Raises FileNotFoundError where there is none, ArtifactError where it cannot be read as
    JSON, or has more than `deepest` lists and mappings within each other: what walks through it would not come back."""
    size = path.stat().st_size
    require_regular(path, "cannot be read")
    if size > LARGEST_JSON:
        raise ArtifactError(f"{path}: has {human_size(size)}, too much for a file of JSON; it is damaged")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); it cannot be read as JSON") from error
    if deepest is not None and _is_deeper(value, deepest):
        raise ArtifactError(f"{path}: holds lists or mappings more than {deepest} deep; it is damaged")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and mappings lie within each other at more levels."""
    here = [value]
    for _ in range(levels):
        inner = (item.values() if isinstance(item, dict) else item for item in here if isinstance(item, dict | list))
        here = [item for items in inner for item in items if isinstance(item, dict | list)]
    return bool(here)


def human_size(size: float) -> str:
    """Bytes as a person reads them: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_flop(flop: float) -> str:
    """A number of operations as a person reads it: 1.5 TFLOP."""
    value, units = float(flop), ["", "k", "M", "G", "T", "P", "E", "Z"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}FLOP"


def human_duration(seconds: float) -> str:
    """Seconds as a person reads them: 12 s, 3.4 min, 5.6 h."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def file_system(path: Path) -> str:
    """The kind of the disk under a path and where it is mounted, as `nfs4 at /shared`; without Linux's list of mounts
    the path alone."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"at {path}"
    octal = partial(re.sub, r"\\(\d{3})", lambda code: chr(int(code[1], 8)))
    mounts = [(octal(fields[1]), fields[2]) for fields in map(str.split, lines)]
    above = [(len(place), place, kind) for place, kind in mounts if path.resolve().is_relative_to(place)]
    return "{2} at {1}".format(*max(above)) if above else f"at {path}"
