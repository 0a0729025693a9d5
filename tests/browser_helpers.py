"""A headless Chromium that opens pages, by its DevTools protocol over a pipe; tests without one are skipped."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip
CONTRAST = """
(() => {
  const parse = text => {
    const m = text.match(/[\\d.]+/g).map(Number);
    return {rgb: m.slice(0, 3), a: m.length > 3 ? m[3] : 1};
  };
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
  const luminance = rgb => {
    const [r, g, b] = rgb.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.a === 1) return found.rgb;
      if (found.a > 0) return null;
    }
    return [255, 255, 255];
  };
  const out = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || ['SCRIPT', 'STYLE', 'TITLE'].includes(element.tagName.toUpperCase())) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    const ink = parse(svg ? style.fill : style.color).rgb, paper = ground(element);
    if (!paper) { out.push([0, node.data.trim().slice(0, 40)]); continue; }
    const [a, b] = [luminance(ink), luminance(paper)].sort((x, y) => y - x);
    out.push([(a + 0.05) / (b + 0.05), node.data.trim().slice(0, 40), parseFloat(style.fontSize)]);
  }
  return out;
})()
"""
"""[contrast by WCAG, text, size in px] of every text that is shown; 0 where what is behind it is half clear."""


@dataclass
class Page:
    """An open page: what it logged as warnings and errors, and what it asked for."""

    browser: Browser
    session: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.browser.call("Runtime.evaluate", self.session, expression=expression, returnByValue=True,
                                   awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def theme(self, scheme: str) -> None:
        """Have the page shown light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.call("Emulation.setEmulatedMedia", self.session, features=features)

    def width(self, pixels: int, height: int = 844) -> None:
        """Have the page shown in a window of this width."""
        self.browser.call("Emulation.setDeviceMetricsOverride", self.session, width=pixels, height=height,
                          deviceScaleFactor=1, mobile=pixels < 500)  # fmt: skip

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        answer = self.browser.call("Page.captureScreenshot", self.session, captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@dataclass
class Browser:
    """A running Chromium."""

    reading: int
    writing: int
    count: int = 0
    rest: bytes = b""
    loaded: bool = False
    pages: dict[str, Page] = field(default_factory=dict)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile is noted on its page."""
        number = self.count = self.count + 1
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == number:
                assert "error" not in found, found["error"]
                return dict(found["result"])

    def open(self, path: Path, *, width: int = 1280) -> Page:
        """Open a file, and wait until it is loaded with all its pictures."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        page.width(width)
        self.loaded = False
        self.call("Page.navigate", session, url=path.resolve().as_uri())
        while not self.loaded:
            self._read()
        return page

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.reading, 1 << 16)
            assert more, "Chromium ended"
            self.rest += more
        content, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(content)
        page = self.pages.get(message.get("sessionId", ""))
        if page is not None and "method" in message:
            self._note(page, message["method"], message["params"])
        return message

    def _note(self, page: Page, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            page.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            page.problems.append(told["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            page.problems.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            page.problems.append(told["entry"]["text"])


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with a profile of its own, ended at the end of the block."""
    assert CHROMIUM is not None
    commands, answers = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands[0], answers[1])]  # 3 and 4 are Chromium's names
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "chromium", *command],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (commands[0], answers[1], *ends):
            os.close(end)
        started = Browser(answers[0], commands[1])
        try:
            yield started
        finally:
            started.call("Browser.close")
            process.wait(20)
            os.close(answers[0])
            os.close(commands[1])
