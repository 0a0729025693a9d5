"""A web server for one test: files by path, with byte ranges, that can be told to misbehave, and that remembers."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@dataclass
class FileServer:
    """`files` by path. `breaks`: after how many bytes of the body the next answers end; `answers`: codes that the next
    requests get instead of the file; `before_body` is called when half of a body is sent."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    halfway: Callable[[], None] = lambda: None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    @property
    def gets(self) -> list[str | None]:
        """The Range headers of the GET requests so far."""
        return [asked for method, _, asked in self.requests if method == "GET"]


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.command, self.path, asked))
            content = server.files.get(self.path.partition("?")[0])
            if server.answers or content is None:
                self.send_response(server.answers.pop(0) if server.answers else 404)
                self.send_header("Content-Length", "0")
                self.send_header("X-Error-Code", "EntryNotFound")  # as the Hugging Face hub says it
                self.end_headers()
                return
            self._send(content, asked)

        def _send(self, content: bytes, asked: str | None) -> None:
            etag = hashlib.sha256(content).hexdigest()
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and server.ranges else 0
            if start and self.headers.get("If-Range", f'"{etag}"') != f'"{etag}"':
                start = 0
            if start >= len(content) > 0:
                self.send_error(416)
                return
            body = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.end_headers()
            if self.command == "GET":
                sent = body[: server.breaks.pop(0)] if server.breaks else body
                self.wfile.write(sent[: len(sent) // 2])
                self.wfile.flush()
                server.halfway()
                self.wfile.write(sent[len(sent) // 2 :])

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    return Handler


@contextmanager
def serving(**files: bytes) -> Iterator[FileServer]:
    """A server on this machine, of files at `/<name>`."""
    server = FileServer({f"/{name}": content for name, content in files.items()})
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that break off are part of it
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def empty_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of downloads below `folder`, and a network that nothing forbids."""
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("GAEKIT_MIRROR", raising=False)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Raises AssertionError if it does not come about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
