"""Fetching one file from a URL: resumed, verified, by one process at a time, there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from gaekit.errors import GaekitError, MachineFailed

log = logging.getLogger(__name__)

MIRROR = "GAEKIT_MIRROR"
BLOCK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt; the count begins anew whenever an attempt brought something."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that another attempt may mend."""


def mirrored(url: str) -> str:
    """The URL, with the longest beginning that `GAEKIT_MIRROR=https://from=https://to,...` replaces, replaced.

    Raises GaekitError where the variable is malformed.
    """
    mirrors: dict[str, str] = {}
    for pair in filter(None, map(str.strip, os.environ.get(MIRROR, "").split(","))):
        origin, _, mirror = pair.partition("=")
        if "://" not in origin or "://" not in mirror:
            raise GaekitError(f"{MIRROR}: '{pair}' is no mirror; write https://from.example=https://to.example, ...")
        mirrors[origin.rstrip("/")] = mirror.rstrip("/")
    fitting = [origin for origin in mirrors if url == origin or url.startswith(f"{origin}/")]
    if not fitting:
        return url
    longest = max(fitting, key=len)
    return mirrors[longest] + url[len(longest) :]


def download(url: str, path: Path, sha256: str = "") -> None:
    """Fetch `url`, or its mirror, to `path`, if that is not there; `sha256` is the beginning of its hash, if known.

    What arrives stands in `path`.part until it is whole; with a known hash the next call goes on from there. Processes
    that want the same file wait for the one that fetches it. Raises GaekitError where it cannot be had or is another
    file than expected, and MachineFailed where the disk lacks the room.
    """
    source = mirrored(url)
    with _locked_part(path) as part:
        if part is None:
            return
        if not sha256:
            part.restart()  # nothing would tell whether it is of the same file
        resumed = part.size > 0
        log.info("fetching %s%s", source, f" from byte {part.size} on" if resumed else "")
        _complete(part, source)
        if resumed and not part.digest.startswith(sha256):
            log.warning("%s: what an earlier attempt left of it was of another file; fetching all of it", source)
            part.restart()
            _complete(part, source)
        if not part.digest.startswith(sha256):
            part.remove()
            raise GaekitError(
                f"{source}: not the expected file: its sha256 should begin with {sha256}, and is {part.digest}; "
                "the server or a proxy gives another one"
            )
        part.keep()


class _Part:
    """What there is of a file so far, and the sha256 of that."""

    def __init__(self, file: FileIO, path: Path, target: Path):
        self.file, self.path, self.target = file, path, target
        self.validator: str | None = None  # by which the server knows whether its file is still the same
        self._hash = hashlib.sha256()
        file.seek(0)
        while block := file.read(BLOCK):
            self._hash.update(block)
        self.size = file.tell()

    @property
    def digest(self) -> str:
        """Of the bytes so far, in hex."""
        return self._hash.hexdigest()

    def restart(self) -> None:
        """Forget what is there."""
        self.file.truncate(0)
        self._hash, self.size = hashlib.sha256(), 0

    def append(self, block: bytes) -> None:
        """Raises MachineFailed if the disk is full."""
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._hash.update(block)
        self.size += len(block)

    def check_room(self, more: int) -> None:
        """Raises MachineFailed if `more` bytes do not fit on the disk."""
        free = shutil.disk_usage(self.path.parent).free
        if more > free:
            raise MachineFailed(
                f"{self.target}: {more / 1e6:,.0f} MB are still to come, and that disk has {free / 1e6:,.0f} MB free; "
                f"{_ROOM}"
            )

    def remove(self) -> None:
        """Leave nothing behind."""
        self.path.unlink()

    def keep(self) -> None:
        """Flush to disk and give it its name."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        os.replace(self.path, self.target)


@contextmanager
def _locked_part(path: Path) -> Iterator[_Part | None]:
    """`path`.part, which is its own lock; None where the file is there, maybe since another process fetched it."""
    part = path.with_name(f"{path.name}.part")
    while not path.is_file():
        with _opened(part) as file:
            _lock(file, part)
            if not _is_at(file, part):
                continue  # whoever held the lock has named it or removed it
            if path.is_file():  # named between our look and our opening: this one is new and empty
                part.unlink()
                break
            yield _Part(file, part, path)
            return
    yield None


def _opened(part: Path) -> FileIO:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return part.open("a+b", buffering=0)  # closing must not write what a full disk refused
    except OSError as error:
        raise _unwritable(part, error) from error


def _lock(file: FileIO, part: Path) -> None:
    """Wait for the lock. It ends with the process that holds it, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks
        raise _unwritable(part, error) from error


def _unwritable(path: Path, error: OSError) -> MachineFailed:
    return MachineFailed(f"{path}: cannot be written ({error.strerror}); {_ROOM}")


_ROOM = "make room there, or move the cache (by TORCH_HOME)"


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _complete(part: _Part, url: str) -> None:
    """Receive what is missing, over as many connections as it takes. Raises GaekitError where that leads nowhere."""
    pauses = iter(PAUSES)
    while True:
        before = part.size
        try:
            return _receive(part, url)
        except (OSError, HTTPException) as error:  # URLError and HTTPError are OSErrors
            if isinstance(error, HTTPError) and error.code == 416 and before:
                part.restart()  # it has no such bytes: ours are not of this file
                continue
            if part.size > before:
                pauses = iter(PAUSES)
            pause = next(pauses, None)
            if pause is None or not _may_pass(error):
                raise GaekitError(f"{url}: {error or type(error).__name__}") from error
            log.warning("%s: %s; trying again in %g s", url, error or type(error).__name__, pause)
            time.sleep(pause)


def _receive(part: _Part, url: str) -> None:
    """One connection. Raises OSError or HTTPException where it breaks."""
    headers = {"User-Agent": "gaekit"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if part.size and answer.status != 206:
            part.restart()  # all of it comes again
        if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
            part.restart()
            raise ConnectionError("the server answered with other bytes than asked for")
        part.validator = _validator(answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
        length = answer.headers.get("Content-Length")
        total = None if length is None else part.size + int(length)
        if length is not None:
            part.check_room(int(length))
        while block := answer.read(BLOCK):
            part.append(block)
    if total is not None and part.size < total:
        raise ConnectionError(f"the connection ended after {part.size} of {total} bytes")


def _validator(etag: str | None, modified: str | None) -> str | None:
    return etag if etag and not etag.startswith("W/") else modified


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code in PASSING
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return False
    return not (isinstance(reason, OSError) and reason.errno in (errno.ENOENT, errno.EACCES))  # of file:// mirrors
