"""A download is whole or absent, goes on where it broke, is what was asked for, and happens once."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import FileServer, serving, wait_until

from gaekit.api import download as module
from gaekit.api.download import download, mirrored
from gaekit.errors import GaekitError, MachineFailed

CONTENT = random.Random(0).randbytes(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(weights=CONTENT) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.delenv("GAEKIT_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_comes_whole_and_once(server: FileServer, target: Path) -> None:
    for _ in range(2):
        download(f"{server.url}/weights", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]
    assert server.gets == [None]


@pytest.mark.parametrize("sha256", [SHA256[:8], ""])
def test_broken_connections_go_on_where_they_broke(server: FileServer, target: Path, sha256: str) -> None:
    server.breaks = [1 << 20, 1 << 20, 10]
    download(f"{server.url}/weights", target, sha256)
    assert target.read_bytes() == CONTENT
    starts = [None, 1 << 20, 1 << 21, (1 << 21) + 10]
    assert server.gets == [start and f"bytes={start}-" for start in starts]


def test_a_server_without_ranges_sends_all_of_it_again(server: FileServer, target: Path) -> None:
    server.ranges, server.breaks = False, [1 << 20]
    download(f"{server.url}/weights", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.gets) == 2


def test_a_file_that_changes_meanwhile_is_not_mixed(server: FileServer, target: Path) -> None:
    other = CONTENT[::-1]

    def change() -> None:
        server.files["/weights"] = other

    server.breaks, server.halfway = [1 << 20], change
    download(f"{server.url}/weights", target)
    assert target.read_bytes() == other


def test_what_an_earlier_process_left_is_used_and_only_if_it_fits(server: FileServer, target: Path) -> None:
    part = target.with_name("weights.pth.part")
    target.parent.mkdir()
    part.write_bytes(CONTENT[:1000])
    download(f"{server.url}/weights", target, SHA256)
    assert server.gets == ["bytes=1000-"]
    target.unlink()
    for leftover in (b"x" * 1000, b"x" * (4 << 20)):  # of another file; longer than the file
        part.write_bytes(leftover)
        download(f"{server.url}/weights", target, SHA256)
        assert target.read_bytes() == CONTENT
        target.unlink()
    part.write_bytes(b"x" * 1000)
    download(f"{server.url}/weights", target)  # without a hash nothing tells of what it is
    assert target.read_bytes() == CONTENT


def test_another_file_than_expected_is_refused_and_not_kept(server: FileServer, target: Path) -> None:
    with pytest.raises(GaekitError, match=f"{server.url}/weights: not .* begin with 01234567, and is {SHA256}"):
        download(f"{server.url}/weights", target, "01234567")
    assert left(target) == []


def test_an_absent_file_ends_it_at_once_and_a_tired_server_is_asked_again(server: FileServer, target: Path) -> None:
    with pytest.raises(GaekitError, match=f"{server.url}/nothing: HTTP Error 404"):
        download(f"{server.url}/nothing", target)
    assert len(server.gets) == 1
    server.answers = [503, 429]
    download(f"{server.url}/weights", target, SHA256)
    assert target.read_bytes() == CONTENT


def test_it_gives_up_after_some_attempts_that_bring_nothing(server: FileServer, target: Path) -> None:
    server.breaks = [1000, 0, 0]
    with pytest.raises(GaekitError, match=f"ended after 1000 of {len(CONTENT)} bytes"):
        download(f"{server.url}/weights", target, SHA256)
    assert len(server.gets) == 3
    assert left(target) == ["weights.pth.part"]  # to go on from


def test_room_on_the_disk_is_seen_to_beforehand(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    with pytest.raises(MachineFailed, match=r"weights\.pth: 3 MB are still to come, and that disk has 1 MB free"):
        download(f"{server.url}/weights", target, SHA256)
    assert left(target) == []


def test_a_disk_that_fills_up_is_named_and_what_came_is_kept(server: FileServer, target: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))  # no file may grow larger
    try:
        with pytest.raises(MachineFailed, match=r"weights\.pth\.part: cannot be written \(File too large\)"):
            download(f"{server.url}/weights", target, SHA256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.with_name("weights.pth.part").read_bytes() == CONTENT[:2_000_000]
    download(f"{server.url}/weights", target, SHA256)
    assert server.gets == [None, "bytes=2000000-"]
    assert target.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineFailed, match=r"file/weights\.part: cannot be written .*TORCH_HOME"):
        download(f"{server.url}/weights", tmp_path / "file" / "weights", SHA256)


def test_mirrors_replace_the_longest_beginning_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAEKIT_MIRROR", "https://a.org=https://m.org/a/, https://a.org/deep=file:///deep")
    assert mirrored("https://a.org/x/y.pth") == "https://m.org/a/x/y.pth"
    assert mirrored("https://a.org/deep/y.pth") == "file:///deep/y.pth"
    assert mirrored("https://a.org/deeper") == "https://m.org/a/deeper"
    assert mirrored("https://a.org.uk/x") == "https://a.org.uk/x"
    assert mirrored("https://a.org") == "https://m.org/a"
    monkeypatch.setenv("GAEKIT_MIRROR", "mirror.org")
    with pytest.raises(GaekitError, match=r"'mirror\.org' is no mirror; write https://from"):
        mirrored("https://a.org")


def test_a_mirror_may_be_a_folder(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(CONTENT)
    monkeypatch.setenv("GAEKIT_MIRROR", f"https://nowhere.example={tmp_path.as_uri()}")
    download("https://nowhere.example/weights", target, SHA256)
    assert target.read_bytes() == CONTENT
    with pytest.raises(GaekitError, match=r"file://.*/absent"):
        download("https://nowhere.example/absent", tmp_path / "absent_too")


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """(URL, a number for each connection) of a server that reads a request and answers it as told, whatever HTTP
    says."""
    served: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, suppress(OSError):
                        connection.recv(1 << 16)
                        served.append(len(served))
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/weights", served
        listening.shutdown(socket.SHUT_RDWR)


OK = b"HTTP/1.0 200 OK\r\n"


def endlessly(head: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head + b"\r\n")
        while True:
            connection.sendall(bytes(1 << 20))

    return answer


@pytest.mark.parametrize("head", [OK, OK + b"Content-Length: 9999999999999\r\n"])
def test_a_body_without_an_end_does_not_fill_the_disk(
    head: bytes, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 8 << 20)
    with answering(endlessly(head)) as (url, _), pytest.raises(GaekitError, match=r"more comes than|no file of more"):
        download(url, target, SHA256)
    assert left(target) == []


def test_a_body_without_an_end_leaves_room_on_the_disk(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    monkeypatch.setattr(module, "KEPT_FREE", 8 << 20)
    free = iter([5e9, 2e9, 8e6])
    told = r"nobody says how long it is, \d+ MB came, and that disk has only 8 MB left"
    with answering(endlessly(OK)) as (url, _), pytest.raises(MachineFailed, match=told):
        download(url, target, SHA256)
    assert left(target) == []


def test_more_than_the_size_that_is_known_is_not_taken(server: FileServer, target: Path) -> None:
    told = f"should have 1000 bytes, and has {len(CONTENT)}"
    with pytest.raises(module.OtherFile, match=told):
        download(f"{server.url}/weights", target, size=1000)
    with answering(endlessly(OK)) as (url, _), pytest.raises(module.OtherFile, match="more comes than 1000 bytes"):
        download(url, target, size=1000)
    assert left(target) == []
    download(f"{server.url}/weights", target, size=len(CONTENT))


def test_a_byte_a_connection_ends(target: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: 1000\r\n\r\nx")

    with answering(answer) as (url, served), pytest.raises(GaekitError, match="ended after 1 of 1000 bytes"):
        download(url, target, SHA256)
    assert len(served) == 3


def test_a_server_that_always_begins_anew_ends(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 1000)

    def answer(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: 9000\r\n\r\n" + bytes(2000))

    with answering(answer) as (url, served), pytest.raises(GaekitError, match="ended after 2000 of 9000 bytes"):
        download(url, target, SHA256)
    assert len(served) == 3


@pytest.mark.parametrize("head", [b"", OK + b"Content-Length: 10000\r\n\r\n"])
def test_a_byte_now_and_then_ends(head: bytes, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TIMEOUT", 0.2), ("WINDOW", 0.2), ("PAUSES", (0.0,))):
        monkeypatch.setattr(module, name, value)

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    begun = time.monotonic()
    with answering(answer) as (url, _), pytest.raises(GaekitError, match=r"came within|no whole answer|timed out"):
        download(url, target, SHA256)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("told", ["abc", "-5", "1e3", "9" * 30, "\xb2"])
def test_a_length_that_is_none_is_no_length(told: str, target: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(OK + f"Content-Length: {told}\r\n\r\n".encode("latin-1") + b"abc")

    with answering(answer) as (url, served), pytest.raises(GaekitError, match=r"the server says that .* bytes come"):
        download(url, target)
    assert len(served) == 3
    assert left(target) == []


def test_only_https_follows_https() -> None:
    follow = module._Redirects().redirect_request
    ask = [module.Request(f"{scheme}://a.example/x") for scheme in ("https", "http")]
    for request, url in ((ask[0], "https://b.example"), (ask[1], "http://b.example"), (ask[1], "https://b.example")):
        followed = follow(request, None, 302, "Found", {}, url)  # type: ignore[arg-type]
        assert followed is not None
        assert followed.full_url == url
    for request, url in ((ask[0], "http://b.example"), (ask[0], "ftp://b.example"), (ask[1], "ftp://b.example")):
        with pytest.raises(GaekitError, match=rf"leads to {re.escape(url)}, which is not encrypted"):
            follow(request, None, 302, "Found", {}, url)  # type: ignore[arg-type]


def test_a_redirect_is_followed_and_never_into_files(server: FileServer, target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)

    def to(place: str) -> Callable[[socket.socket], None]:
        return lambda connection: connection.sendall(f"HTTP/1.0 302 Found\r\nLocation: {place}\r\n\r\n".encode())

    with answering(to((tmp_path / "secret").as_uri())) as (url, _), pytest.raises(GaekitError, match="302"):
        download(url, target)
    assert left(target) == []
    with answering(to(f"{server.url}/weights")) as (url, _):
        download(url, target, SHA256)


@pytest.mark.parametrize(
    ("sha256", "told"),
    [
        (SHA256, "its whole sha256 is known and checked"),
        (SHA256[:8], "only the first 8 hex digits of its sha256 can be checked: whoever can change"),
        ("", "nothing of its sha256 can be checked: whoever can change what comes from there can choose the file"),
    ],
)
def test_a_mirror_that_is_not_encrypted_is_told(
    sha256: str, told: str, server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("GAEKIT_MIRROR", f"https://nowhere.example={server.url}")
    with caplog.at_level(logging.WARNING):
        download("https://nowhere.example/weights", target, sha256)
    (record,) = caplog.records
    assert told in record.getMessage()
    assert f"{server.url}/weights, which GAEKIT_MIRROR names and which is not https" in record.getMessage()


PROGRAM = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("download", sys.argv[1])  # without torch, to begin at once
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
Path(sys.argv[2]).touch()
module.download(sys.argv[3], Path(sys.argv[4]), sys.argv[5])
"""


def start(mark: Path, server: FileServer, target: Path) -> subprocess.Popen[bytes]:
    arguments = [str(module.__file__), str(mark), f"{server.url}/weights", str(target), SHA256]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments])


def test_of_several_processes_one_downloads_and_the_others_wait(
    server: FileServer, target: Path, tmp_path: Path
) -> None:
    marks = [tmp_path / f"started{n}" for n in range(3)]
    server.halfway = lambda: wait_until(lambda: all(mark.exists() for mark in marks))
    processes = [start(mark, server, target) for mark in marks]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert target.read_bytes() == CONTENT
    assert server.gets == [None]
    assert left(target) == ["weights.pth"]


def test_where_the_one_that_downloads_dies_another_goes_on(server: FileServer, target: Path, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    part, started = target.with_name("weights.pth.part"), list[subprocess.Popen[bytes]]()

    def kill() -> None:
        wait_until(lambda: bool(started) and part.exists() and part.stat().st_size >= 1 << 20)
        process = started[0]
        process.kill()
        process.wait()
        server.halfway = lambda: None

    server.halfway = kill
    started.append(start(mark, server, target))
    wait_until(lambda: started[0].poll() is not None)
    had = part.stat().st_size
    download(f"{server.url}/weights", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.gets == [None, f"bytes={had}-"]
