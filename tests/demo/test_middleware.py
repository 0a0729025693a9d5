"""Who is answered, and what may be uploaded; without gradio."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from gaekit.demo.middleware import UPLOAD, LocalOnly, prune

LIMIT = 20 << 20


def status(folder: Path, path: str, **headers: str) -> int:
    """What a request is answered with; 200 is the page behind."""
    sent: list[dict[str, Any]] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    given = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": given}
    asyncio.run(LocalOnly(page, folder, LIMIT)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost"])
@pytest.mark.parametrize("origin", ["http://127.0.0.1:7860", "http://localhost:9", None])
def test_pages_of_this_machine_are_answered(tmp_path: Path, host: str, origin: str | None) -> None:
    assert status(tmp_path, "/", host=host, **({} if origin is None else {"origin": origin})) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:7860"},
        {"host": "[oops"},
        {},
        {"host": "127.0.0.1:7860", "origin": "https://evil.example"},
        {"host": "127.0.0.1:7860", "origin": "null"},
        {"host": "127.0.0.1:7860", "origin": "http://localhost.evil.example"},
    ],
)
def test_pages_of_others_are_not(tmp_path: Path, headers: dict[str, str]) -> None:
    assert status(tmp_path, "/", **headers) == 403


def test_uploads_tell_their_size_and_are_bounded(tmp_path: Path) -> None:
    for length, code in ((str(LIMIT), 200), (str(LIMIT + (1 << 17)), 413), ("-1", 413), ("", 413)):
        assert status(tmp_path, UPLOAD, host="localhost", content_length=length) == code
        assert status(tmp_path, f"{UPLOAD}/", host="localhost", content_length=length) == code
    assert status(tmp_path, UPLOAD, host="localhost") == 413


def test_the_oldest_files_go_first(tmp_path: Path) -> None:
    for age in range(6):
        file = tmp_path / f"folder{age}" / "image.png"
        file.parent.mkdir()
        file.write_bytes(bytes(10))
        os.utime(file, (1e9 - age, 1e9 - age))

    def left() -> list[int]:
        return [age for age in range(6) if (tmp_path / f"folder{age}/image.png").exists()]

    prune(tmp_path, files=6, size=60)
    assert left() == list(range(6))
    prune(tmp_path, files=4)
    assert left() == [0, 1, 2, 3]
    prune(tmp_path, size=29)
    assert left() == [0, 1]
