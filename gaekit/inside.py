"""Names and paths that come out of a file somebody else may have written: each must stay inside its folder.

Whatever a run.json, a manifest, an index or an archive names is checked here before it becomes a path that is read,
written or deleted. `source` is what an error calls the entry, such as `runs/x/run.json: stages.latents.artifact`;
`error` is the class that is raised, ArtifactError unless a caller wants another.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gaekit.errors import ArtifactError, GaekitError

LONGEST_NAME = 255
"""Bytes of a file's name that usual file systems take."""


def plain_name(name: object, source: str, error: type[GaekitError] = ArtifactError) -> str:
    """The name itself where it is one of a file or folder and nothing more: text without a separator or a control
    character, not `.` or `..`, at most 255 bytes. Raises `error` otherwise."""
    if (
        not isinstance(name, str)
        or not name
        or name in (".", "..")
        or any(c in "/\\" or not c.isprintable() for c in name)
    ):
        raise error(f"{source}: {_shown(name)} is not a plain file name; expected a name without a folder")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise error(f"{source}: {_shown(name)} is longer than the {LONGEST_NAME} bytes that a file's name may have")
    return name


def join_inside(folder: Path, name: object, source: str, error: type[GaekitError] = ArtifactError) -> Path:
    """`folder / name`, which need not exist. Raises `error` where `name` is not a relative path, has a `..`, or a link
    on the way leads out of `folder`."""
    if not isinstance(name, str) or not name:
        raise error(f"{source}: {_shown(name)} is not a path; expected one relative to {folder}")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or not parts or ".." in parts:
        raise error(f"{source}: {_shown(name)} leads out of {folder}; expected a path relative to it, without '..'")
    for part in parts:
        plain_name(part, source, error)
    resolve_inside(folder / name, [folder], source, error)
    return folder / name


def file_inside(folder: Path, name: object, source: str, error: type[GaekitError] = ArtifactError) -> Path:
    """As `join_inside`, of a file that is there. Raises `error` also where it is absent or not a regular file."""
    return require_regular(join_inside(folder, name, source, error), source, error)


def resolve_inside(path: Path, roots: Iterable[Path], source: str, error: type[GaekitError] = ArtifactError) -> Path:
    """Where `path` is in truth, all links followed; it need not exist. Raises `error` where that is in none of the
    folders `roots`, whose own links are followed too."""
    roots = list(roots)
    try:
        found = path.resolve()
        if any(found.is_relative_to(root.resolve()) for root in roots):
            return found
    except (OSError, RuntimeError, ValueError) as fault:  # a link to itself, a name too long, a null byte
        raise error(f"{source}: {_shown(str(path))} cannot be followed ({fault})") from fault
    allowed = " or ".join(map(str, roots))
    raise error(f"{source}: {_shown(str(path))} leads out of {allowed} to {_shown(str(found))}; it is not followed")


def require_regular(path: Path, source: str, error: type[GaekitError] = ArtifactError) -> Path:
    """`path` where it is a regular file or a link to one. Raises `error` where it is absent or something else: to open
    a pipe would wait for ever, and a device has no end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as fault:
        raise error(f"{source}: {_shown(str(path))}: {getattr(fault, 'strerror', None) or fault}") from fault
    if not stat.S_ISREG(mode):
        raise error(_not_regular(path, mode, source))
    return path


def open_regular(path: Path, source: str, error: type[GaekitError] = ArtifactError) -> BinaryIO:
    """The regular file at `path`, open for reading bytes. Raises `error` where it is something else, without waiting
    for who writes into a pipe, and OSError where it cannot be opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        if fault.errno == errno.ENXIO:  # a socket
            raise error(_not_regular(path, stat.S_IFSOCK, source)) from fault
        raise
    if not stat.S_ISREG(mode := os.fstat(handle).st_mode):
        os.close(handle)
        raise error(_not_regular(path, mode, source))
    return os.fdopen(handle, "rb")


def _not_regular(path: Path, mode: int, source: str) -> str:
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    return f"{source}: {_shown(str(path))} is {what}; expected a regular file"


def _shown(value: object) -> str:
    """As an error shows it: on one line, without control characters, not endless."""
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else f"'{value}'"
    return text if len(text) <= 200 else f"{text[:200]}..."
