"""Writing `curves.jsonl` (`gaekit.store.curves`) while a training runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gaekit.store.curves import cut_curves, line_of
from gaekit.store.files import disk_full_is_named, sync


class CurveWriter:
    """Appends to the curves of a training that goes on at step `start`; what they hold beyond it is cut first.

    A line that cannot be written (a full disk, a server that is away) is told once by `say` and written with the next
    one: a curve to look at is not worth a training.
    """

    def __init__(self, path: Path, start: int, say: Callable[[str], None]):
        self.path, self._say = path, say
        with disk_full_is_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_curves(path, start)
            self._written = path.stat().st_size if path.exists() else 0
        self._waiting: list[bytes] = []

    def log(self, step: int, seconds: float, scalars: Mapping[str, float]) -> None:
        """Add a line, which is handed to the system when this returns."""
        self._waiting.append(line_of(step, seconds, scalars))
        self._write(told=len(self._waiting) > 1)

    def sync(self) -> None:
        """Have all lines on the disk, so that a machine that fails loses none before its last checkpoint."""
        try:
            sync(self.path)
        except FileNotFoundError:
            return

    def close(self) -> None:
        """Write what could not be written before; tell what is lost."""
        if self._waiting:
            self._write(told=True)
        if self._waiting:
            self._say(f"warning: {self.path}: {len(self._waiting)} lines could not be written and are lost")

    def _write(self, *, told: bool) -> None:
        data = b"".join(self._waiting)
        try:
            with self.path.open("r+b" if self._written else "wb") as file:
                file.truncate(self._written)  # a half of a line that could not be written whole
                file.seek(self._written)
                file.write(data)
        except OSError as error:
            if not told:
                reason = error.strerror or error
                self._say(f"warning: {self.path} cannot be written ({reason}); its lines wait for the next")
            return
        self._written += len(data)
        self._waiting.clear()
