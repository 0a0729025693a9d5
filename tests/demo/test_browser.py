"""The page in a real browser, by the command as a person starts it: `pytest -m slow tests/demo/test_browser.py`, with
`pip install 'gaekit[demo]' playwright` and Debian's chromium."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_helpers import contents
from PIL import Image

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
LACKING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
LACKING += [] if CHROMIUM else ["chromium"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"needs {' and '.join(LACKING)}: pip install 'gaekit[demo]' playwright"),
]
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SERVER = """
import sys

def watch(event, given):
    address = given[1] if event in ("socket.connect", "socket.bind") else given[:1]
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo") and isinstance(address, tuple):
        if address[0] not in (None, "127.0.0.1", "::1", "localhost"):
            print("REACHED OUT", event, address, file=sys.stderr, flush=True)

sys.addaudithook(watch)
from gaekit.cli import main
sys.exit(main(["demo", *sys.argv[1:]]))
"""
PICTURES = """
async ids => Promise.all([...document.querySelectorAll(ids)].filter(i => i.offsetParent).map(async image => {
  image.loading = "eager";  // one out of sight would not be loaded
  const late = new Promise(done => setTimeout(() => done(true), 2000));
  if (await Promise.race([image.decode().then(() => false, () => true), late])) return `not there yet: ${image.src}`;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}))
"""
DROP = """
([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], name, {type: "image/png"}));
  const target = document.querySelector("#dropped button");
  for (const type of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(type, {dataTransfer: files, bubbles: true, cancelable: true}));
}
"""


@dataclass
class Opened:
    """The page as it is open, the server's process, and what each of them did that it should not."""

    page: Any
    address: str
    server: subprocess.Popen[str]
    temporary: Path
    log: Path
    problems: list[str] = field(default_factory=list)

    def pictures(self, selector: str) -> list[str]:
        """The pixels of all pictures that are shown there, each as a text."""
        return list(self.page.evaluate(PICTURES, selector))

    def move(self, slider: str, key: str) -> None:
        """Move a slider by a key, as from the keyboard."""
        self.page.locator(f"#{slider} input[type=range]").press(key)

    def number(self, slider: str, value: str) -> None:
        """Type a number beside a slider."""
        box = self.page.locator(f"#{slider} input[type=number]")
        box.fill(value)
        box.blur()

    def make(self) -> list[str]:
        """Click, wait until another line tells what was made, and return the pictures."""
        before = self.page.locator("#told").inner_text()
        self.page.locator("#make").click()
        self.page.wait_for_function("t => document.querySelector('#told').innerText !== t", arg=before)
        found: list[str] = []
        for _ in range(100):  # pictures arrive one by one
            now = self.pictures("#samples .grid-container img")
            if now and now == found and not any(picture.startswith("not there yet") for picture in now):
                return now
            found = now
            self.page.wait_for_timeout(300)
        raise AssertionError(f"the pictures do not settle: {[picture[:80] for picture in found]}")

    def drop(self, name: str, content: bytes) -> None:
        """Drop a file on the field for an image."""
        import base64

        self.page.evaluate(DROP, [name, base64.b64encode(content).decode()])


@pytest.fixture
def opened(tiny_run: Path, tmp_path: Path) -> Iterator[Opened]:
    from playwright.sync_api import sync_playwright

    temporary, log = tmp_path / "temporary", tmp_path / "log"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with log.open("w") as told:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tiny_run)], stdout=subprocess.PIPE, stderr=told, text=True,
            env=environment, cwd=tmp_path,
        )  # fmt: skip
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line + log.read_text()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 390, "height": 844})
            page.set_default_timeout(60_000)
            opened = Opened(page, found[0], server, temporary, log)
            watch(opened)
            page.goto(found[0])
            yield opened
            browser.close()
    finally:
        server.kill()
        server.communicate()


def watch(opened: Opened) -> None:
    def asked(request: Any) -> None:
        if not request.url.startswith((opened.address, "data:", "blob:")):
            opened.problems.append(f"asked for {request.url}")

    def said(message: Any) -> None:
        if message.type == "error":
            opened.problems.append(f"console: {message.text}")

    opened.page.on("request", asked)
    opened.page.on("console", said)
    opened.page.on("pageerror", lambda error: opened.problems.append(f"failed: {error}"))


def test_a_person_samples_reconstructs_and_sees_the_pictures_change(opened: Opened, tiny_run: Path) -> None:
    page, before = opened.page, contents(tiny_run.parent)
    samples(opened)
    page.get_by_role("tab", name="Reconstruct").click()
    reconstructions(opened)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert opened.problems == []
    ends(opened, tiny_run)
    assert contents(tiny_run.parent) == before


def samples(opened: Opened) -> None:
    page = opened.page
    first = opened.make()
    assert len(first) == 20
    assert len(set(first)) == 20
    opened.number("steps", "5")
    assert opened.make() != first
    opened.move("guidance", "ArrowRight")
    assert "guidance 1.6 for t in [0.25, 1)" in (opened.make(), page.locator("#told").inner_text())[1]
    opened.move("start", "End")
    page.locator("#make").click()
    page.get_by_text("the interval starts at 1 and must end later, not at 1").wait_for()
    assert page.locator("[role=alert]").count() == 1
    assert len(opened.pictures("#samples .grid-container img")) == 20
    opened.move("start", "Home")
    opened.number("count", "3")
    page.locator("#classes input").fill("7")
    page.locator("#classes input").press("Enter")
    sevens = opened.make()
    assert len(sevens) == 3
    assert page.locator("[role=alert]").count() == 0
    assert "sample(classes=[7], count=3, steps=5," in page.locator("#told").inner_text()
    opened.move("seed", "ArrowRight")
    assert not set(opened.make()) & set(sevens)
    opened.number("count", "64")
    opened.number("steps", "8")
    page.locator("#make").click()
    page.get_by_text(re.compile(r"[1-9]\d*/88 steps")).first.wait_for()


def reconstructions(opened: Opened) -> None:
    import io

    page, file = opened.page, io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(file, "PNG")
    opened.drop("photo.png", file.getvalue())
    page.locator("#rebuilt b").first.wait_for()
    plain, noisy = shown(opened)
    before = page.locator("#rebuilt").inner_text()
    opened.number("sigma", "1.5")
    page.wait_for_function("t => document.querySelector('#rebuilt').innerText !== t", arg=before)
    plain_again, noisier = shown(opened)
    for _ in range(50):  # the pictures come behind their words
        if not set(noisier) & set(noisy):
            break
        page.wait_for_timeout(100)
        plain_again, noisier = shown(opened)
    assert plain_again == plain
    assert not set(noisier) & set(noisy)
    page.locator("#dropped").get_by_role("button", name=re.compile("clear|remove", re.IGNORECASE)).first.click()
    page.wait_for_function("() => !document.querySelector('#rebuilt b')")
    opened.drop("letter.png", b"no picture")
    page.get_by_text("letter.png: not an image of a known kind").wait_for()


def shown(opened: Opened) -> tuple[list[str], list[str]]:
    found = opened.pictures(".trio img")
    assert len(found) == 5
    assert len(set(found)) == 5
    return found[:3], found[3:]


def ends(opened: Opened, tiny_run: Path) -> None:
    """Files outside its own are not served; SIGTERM ends it, and nothing of it is left."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{opened.address}gradio_api/file={tiny_run}/run.json")
    assert refused.value.code == 403
    refused.value.close()
    assert [path.name.startswith("gaekit-demo-") for path in opened.temporary.iterdir()].count(True) == 1
    opened.server.send_signal(signal.SIGTERM)
    assert opened.server.wait(180) == 0  # what is being made ends at its next step
    assert not [path for path in opened.temporary.iterdir() if path.name.startswith("gaekit-demo-")]
    assert "REACHED OUT" not in opened.log.read_text()
    assert "Traceback" not in opened.log.read_text()
