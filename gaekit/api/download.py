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
from contextlib import contextmanager, nullcontext
from email.message import Message
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from gaekit.errors import GaekitError, MachineFailed
from gaekit.waiting import counted

log = logging.getLogger(__name__)

MIRROR = "GAEKIT_MIRROR"
BLOCK = 1 << 20
MEGABYTE = 1_000_000
TIMEOUT = 30.0
"""Seconds without a byte, or without the whole head of an answer, after which a connection counts as broken."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt; the count begins anew whenever there is a `BLOCK` more than there ever was."""
WINDOW, SLOWEST = 60.0, 60_000
"""A connection that brings fewer bytes than the latter in so many seconds counts as broken."""
LARGEST = 100_000_000_000
"""Bytes of the largest file that is fetched."""
KEPT_FREE = 1_000_000_000
"""Bytes that stay free on the disk while a file comes of which nobody says how long it is."""
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


class OtherFile(GaekitError):
    """What the server has is not the file that was expected."""


def download(
    url: str, path: Path, sha256: str = "", *, size: int | None = None, mend: str = "move the cache (by TORCH_HOME)"
) -> None:
    """Fetch `url`, or its mirror, to `path`, if that is not there; `sha256` is the beginning of its hash and `size` its
    bytes, if known. `mend` is what to do, beside making room, where the disk is full.

    What arrives stands in `path`.part until it is whole; with a known hash the next call goes on from there. Processes
    that want the same file wait for the one that fetches it. Raises GaekitError where it cannot be had, OtherFile where
    it is another file than expected, and MachineFailed where the disk lacks the room.
    """
    source = mirrored(url)
    if source != url:
        _tell_of_mirror(url, source, sha256)
    with _locked_part(path, mend) as part:
        if part is None:
            return
        try:
            _fetch(part, source, sha256, size)
        except BaseException:
            if not (sha256 and part.size and part.resumable):
                part.remove()
            raise
        part.keep()


def _fetch(part: _Part, url: str, sha256: str, size: int | None) -> None:
    if not sha256:
        part.restart()  # nothing would tell whether it is of the same file
    resumed = part.size > 0
    log.info("fetching %s%s", url, f" from byte {part.size} on" if resumed else "")
    _complete(part, url, size)
    if resumed and not part.digest.startswith(sha256):
        log.warning("%s: what an earlier attempt left of it was of another file; fetching all of it", url)
        part.restart()
        _complete(part, url, size)
    if not part.digest.startswith(sha256):
        part.resumable = False
        raise OtherFile(
            f"{url}: not the expected file: its sha256 should begin with {sha256}, and is {part.digest}; "
            "the server or a proxy gives another one"
        )


def _tell_of_mirror(url: str, mirror: str, sha256: str) -> None:
    """Say where an address that nobody can listen in on or change was replaced by one that somebody can."""
    if urlsplit(url).scheme == "https" != urlsplit(mirror).scheme:
        known = f"only the first {len(sha256)} hex digits" if sha256 else "nothing"
        follows = (
            "its whole sha256 is known and checked"
            if len(sha256) == 64
            else f"{known} of its sha256 can be checked: whoever can change what comes from there can choose the file"
        )
        log.warning("%s is fetched from %s, which %s names and which is not https; %s", url, mirror, MIRROR, follows)


class _Part:
    """What there is of a file so far, and the sha256 of that. `resumable`: whether the next call can go on from it."""

    def __init__(self, file: FileIO, path: Path, target: Path, mend: str):
        self.file, self.path, self.target, self.mend, self.resumable = file, path, target, mend, True
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
            raise _unwritable(self.path, error, self.mend) from error
        self._hash.update(block)
        self.size += len(block)

    def check_room(self, more: int | None) -> None:
        """Raises MachineFailed if `more` bytes do not fit on the disk; None is not known, and leaves `KEPT_FREE`."""
        free = shutil.disk_usage(self.path.parent).free
        if more is None and free < KEPT_FREE:
            self.resumable = False
            raise MachineFailed(
                f"{self.target}: nobody says how long it is, {self.size / 1e6:,.0f} MB came, and that disk has only "
                f"{free / 1e6:,.0f} MB left; make room there, or {self.mend}"
            )
        if more is not None and more > free:
            raise MachineFailed(
                f"{self.target}: {more / 1e6:,.0f} MB are still to come, and that disk has {free / 1e6:,.0f} MB free; "
                f"make room there, or {self.mend}"
            )

    def remove(self) -> None:
        """Leave nothing behind."""
        self.path.unlink()

    def keep(self) -> None:
        """Flush to disk and give it its name."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error, self.mend) from error
        os.replace(self.path, self.target)


@contextmanager
def _locked_part(path: Path, mend: str) -> Iterator[_Part | None]:
    """`path`.part, which is its own lock; None where the file is there, maybe since another process fetched it."""
    part = path.with_name(f"{path.name}.part")
    while not path.is_file():
        with _opened(part, mend) as file:
            _lock(file, part, mend)
            if not _is_at(file, part):
                continue  # whoever held the lock has named it or removed it
            if path.is_file():  # named between our look and our opening: this one is new and empty
                part.unlink()
                break
            yield _Part(file, part, path, mend)
            return
    yield None


def _opened(part: Path, mend: str) -> FileIO:
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return part.open("a+b", buffering=0)  # closing must not write what a full disk refused
    except OSError as error:
        raise _unwritable(part, error, mend) from error


def _lock(file: FileIO, part: Path, mend: str) -> None:
    """Wait for the lock. It ends with the process that holds it, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks
        raise _unwritable(part, error, mend) from error


def _unwritable(path: Path, error: OSError, mend: str) -> MachineFailed:
    return MachineFailed(f"{path}: cannot be written ({error.strerror}); make room there, or {mend}")


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _complete(part: _Part, url: str, size: int | None) -> None:
    """Receive what is missing, over as many connections as it takes. Raises GaekitError where that leads nowhere."""
    pauses, reached = iter(PAUSES), part.size
    while True:
        before = part.size
        try:
            return _receive(part, url, size)
        except (OSError, HTTPException) as error:  # URLError and HTTPError are OSErrors
            if isinstance(error, HTTPError):
                error.close()
            if isinstance(error, HTTPError) and error.code == 416 and before:
                part.restart()  # it has no such bytes: ours are not of this file
                continue
            if part.size >= reached + BLOCK:
                pauses, reached = iter(PAUSES), part.size
            pause = next(pauses, None)
            if pause is None or not _may_pass(error):
                raise GaekitError(f"{url}: {error or type(error).__name__}") from error
            log.warning("%s: %s; trying again in %g s", url, error or type(error).__name__, pause)
            time.sleep(pause)


def _receive(part: _Part, url: str, size: int | None) -> None:
    """One connection. Raises OSError or HTTPException where it breaks, OtherFile where another file comes."""
    headers = {"User-Agent": "gaekit"}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    with _answer(Request(url, headers=headers)) as answer:
        if part.size and answer.status != 206:
            part.restart()  # all of it comes again
        if answer.status == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
            part.restart()
            raise ConnectionError("the server answered with other bytes than asked for")
        part.validator = _validator(answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
        length = _length(answer.headers)
        total = None if length is None else part.size + length
        _check_size(part, url, total, size)
        part.check_room(length)
        _pour(answer, part, url, size or total)
    if (whole := total if size is None else size) is not None and part.size < whole:
        raise ConnectionError(f"the connection ended after {part.size} of {whole} bytes")


def _answer(request: Request) -> Any:
    """The answer to a request, its head read. Raises ConnectionError where that takes longer than `TIMEOUT`: a server
    may send it a byte at a time, which no time-out of a socket ends."""
    answers: Queue[Any] = Queue()

    def ask() -> None:
        try:
            answers.put(build_opener(_Redirects).open(request, timeout=TIMEOUT))
        except BaseException as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=2 * TIMEOUT)  # a name may have several addresses
    except Empty:
        raise ConnectionError(f"no whole answer within {2 * TIMEOUT:g} s") from None
    if not isinstance(answer, BaseException):
        return answer
    try:
        raise answer
    finally:
        del answer  # else it and this frame would hold each other, and the connection


class _Redirects(HTTPRedirectHandler):
    """Follows from https to https alone: the next address is what the answer says, and anybody could change it."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        """As the library's. Raises GaekitError for what is refused."""
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise GaekitError(
                f"{req.full_url}: leads to {newurl}, which is not encrypted, so that somebody in between could choose "
                "the file; it is not followed; give the address of a server that answers itself"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _length(headers: Message) -> int | None:
    """Of the body, where the head says it. Raises ConnectionError where that is no number."""
    told = headers.get("Content-Length")
    if told is not None and not (told.isascii() and told.isdigit() and len(told) < 20):
        raise ConnectionError(f"the server says that {told[:40]!r} bytes come")
    return None if told is None else int(told)


def _check_size(part: _Part, url: str, total: int | None, size: int | None) -> None:
    if total is not None and total != size is not None:
        part.resumable = False
        raise OtherFile(f"{url}: not the expected file: it should have {size} bytes, and has {total}")
    if total is not None and total > LARGEST:
        part.resumable = False
        most = f"no file of more than {LARGEST / 1e9:g} GB is fetched"
        raise GaekitError(f"{url}: is to have {total / 1e9:,.0f} GB; {most}")


def _pour(answer: Any, part: _Part, url: str, total: int | None) -> None:
    """Append the body, of `total` bytes where that is known. Raises ConnectionError where it comes too slowly, and
    GaekitError or MachineFailed where it has no end."""
    begun, before, looked = time.monotonic(), part.size, part.size
    for block in _shown(iter(lambda: answer.read1(BLOCK), b""), part, url, total):
        part.append(block)
        if part.size > (LARGEST if total is None else total):
            part.resumable = False
            raise OtherFile(f"{url}: more comes than {LARGEST if total is None else total} bytes")
        if total is None and part.size - looked >= KEPT_FREE // 8:
            part.check_room(None)
            looked = part.size
        if (now := time.monotonic()) - begun > WINDOW:
            if part.size - before < SLOWEST:
                raise ConnectionError(f"only {part.size - before} bytes came within {now - begun:.0f} s")
            begun, before = now, part.size


def _shown(blocks: Iterator[bytes], part: _Part, url: str, total: int | None) -> Iterator[bytes]:
    """The blocks, with a bar of the megabytes that have come, where it is known how many will."""
    name, begun = url.rpartition("/")[2], part.size
    with counted(f"fetching {name}", (total - begun) // MEGABYTE, "MB") if total else nullcontext() as counter:
        told = 0
        for block in blocks:
            yield block
            if counter is not None and (come := (part.size - begun) // MEGABYTE) > told:
                counter.advance(come - told)
                told = come


def _validator(etag: str | None, modified: str | None) -> str | None:
    return etag if etag and not etag.startswith("W/") else modified


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code in PASSING
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return False
    return not (isinstance(reason, OSError) and reason.errno in (errno.ENOENT, errno.EACCES))  # of file:// mirrors
