"""What is let through to the page: requests of this machine's browser, and uploads that fit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HERE = frozenset({"127.0.0.1", "localhost"})
UPLOAD = "/gradio_api/upload"
AROUND_A_FILE = 1 << 16
"""Bytes of a form around its file."""
KEPT_FILES, KEPT_BYTES = 400, 256 << 20
"""Of uploads and of pictures shown, beyond which the oldest are deleted."""


class LocalOnly:
    """Refuses what another site's page, or another name for this machine, asks for; and uploads that are too large.

    A browser sends requests of any page it has open to 127.0.0.1, under the page's `Origin`; and a name in somebody's
    DNS may lead here, which then stands as `Host`.
    """

    def __init__(self, app: App, folder: Path, most_bytes: int):
        """`folder`: where uploads go; `most_bytes`: of one."""
        self.app, self.folder, self.most_bytes = app, folder, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope.get("headers", [])}
        is_upload = scope.get("path", "").rstrip("/") == UPLOAD
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not (_is_here(f"//{headers.get('host', '')}") and _is_here(headers.get("origin", "//localhost"))):
            await _refuse(send, 403, "only pages of this machine are answered")
        elif is_upload and not self._fits(headers.get("content-length", "")):
            await _refuse(send, 413, f"at most {self.most_bytes >> 20} MB are taken")
        else:
            if is_upload:
                prune(self.folder)
            await self.app(scope, receive, send)

    def _fits(self, length: str) -> bool:
        return length.isdecimal() and int(length) <= self.most_bytes + AROUND_A_FILE


def _is_here(address: str) -> bool:
    try:
        return urlsplit(address).hostname in HERE
    except ValueError:
        return False


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def prune(folder: Path, files: int = KEPT_FILES, size: int = KEPT_BYTES) -> None:
    """Delete the oldest files below a folder until so many of so many bytes are left."""
    found = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
    found.sort(key=lambda entry: entry[0].st_mtime_ns, reverse=True)
    kept = 0
    for number, (facts, path) in enumerate(found, 1):
        kept += facts.st_size
        if number > files or kept > size:
            path.unlink(missing_ok=True)
