"""The cache folder: what was learned of data sets once, and fetched shards, kept between runs. It may be deleted at
any time, and where it cannot be written everything is found out anew."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

VARIABLE = "GAEKIT_CACHE"

Arrays = dict[str, NDArray[Any]]


def cache_folder() -> Path:
    """The folder that the variable GAEKIT_CACHE names, else ~/.cache/gaekit."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/gaekit").expanduser()


class KeptArrays:
    """Arrays in the cache folder under the hash of what they are about; `identity` names that, version and all."""

    def __init__(self, *identity: str):
        name = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self.path = cache_folder() / "index" / f"{name}.npz"

    def read(self) -> Arrays:
        """What was kept; nothing where nothing was, or where the file is damaged."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, KeyError, BadZipFile):
            return {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While one process finds out what is to be kept, the others wait for it; each for itself where the folder
        cannot be written."""
        with ExitStack() as stack:
            with suppress(OSError):
                stack.enter_context(locked(self.path))
            yield

    def write(self, arrays: Mapping[str, Any]) -> None:
        """Keep arrays in place of those before, whole or not at all; one warning where the folder is not writable."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.stem}.", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, **arrays)
                os.replace(part, self.path)
            except BaseException:
                os.unlink(part)
                raise
        except OSError as error:
            _warn_unwritable(self.path.parent, error.strerror or str(error))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`: of the processes of all ranks one goes in, the others wait. Raises OSError where
    the folder cannot be written."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache  # one warning a process, not one a file
def _warn_unwritable(folder: Path, reason: str) -> None:
    logger.warning(
        "%s: cannot be written (%s): what is learned of the data is not kept, and every run reads it again; "
        "set %s to a folder that can",
        folder, reason, VARIABLE,
    )  # fmt: skip
