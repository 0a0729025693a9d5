"""Serving the page to this machine alone, until it is stopped; what it keeps meanwhile goes with it."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from gaekit.demo.actions import MOST_BYTES
from gaekit.demo.middleware import LocalOnly
from gaekit.errors import GaekitError
from gaekit.runs.opened import OpenRun

HOST = "127.0.0.1"
FIRST_PORT = 7860
"""gradio's own; the next free one is taken from here on where none is asked for."""
WAITING = 16
"""Clicks that may wait for their turn, of all pages together."""


def require_extra() -> None:
    """Raises GaekitError, with what to install, where the extra `demo` is not there."""
    if importlib.util.find_spec("gradio") is None:
        raise GaekitError("the page needs gradio, which is not installed: pip install 'gaekit[demo]'")


def serve(run: OpenRun, port: int | None, say: Callable[[str], None], stop: threading.Event | None = None) -> None:
    """Serve the page of a run on 127.0.0.1 until SIGINT, SIGTERM or `stop`; `say` is told its address.

    Raises GaekitError where the run has no autoencoder, where the port is taken or where gradio is not installed.
    """
    require_extra()
    stop = stop or threading.Event()
    with tempfile.TemporaryDirectory(prefix="gaekit-demo-", ignore_cleanup_errors=True) as folder:
        _set_environment(folder)
        from gaekit.demo.page import make_page

        page = make_page(run, stop)
        try:
            address = _launch(page, port, Path(folder))
            with _stopped_by_signals(stop):
                say(address)
                stop.wait()
        finally:
            page.blocks.close(verbose=False)


def _set_environment(folder: str) -> None:
    """gradio reads these when it is imported: no telemetry, its files in a folder of ours, no proxy to ourselves."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": folder}
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name, ""), HOST]))


def _launch(page: Any, port: int | None, folder: Path) -> str:
    from starlette.middleware import Middleware

    page.blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    try:
        _, address, _ = page.blocks.launch(
            server_name=HOST,
            server_port=port,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            inbrowser=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size=MOST_BYTES,
            app_kwargs={"middleware": [Middleware(LocalOnly, folder=folder, most_bytes=MOST_BYTES)]},
            **page.look,
        )
    except OSError as error:
        if port is None:
            raise GaekitError(f"no port from {FIRST_PORT} on is free; give one by --port ({error})") from error
        raise GaekitError(
            f"--port {port}: is taken, or not ours to take; leave it out for the first free one"
        ) from error
    return str(address)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event; in another thread than the main one signals are left alone."""

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
