"""curves.jsonl: every scalar that a training logged, a line a logged step. Reading it takes neither torch nor a plugin.

A line is {"step": 100, "seconds": 12.3, "scalars": {"loss/l1": 0.1}}; a number that is not finite is null. Steps never
fall; what a probe found of a step (`probe/...`) is a line of its own behind the step's. `seconds` are those that the
training's steps have taken so far, in all processes that it was resumed in, without what saving and probing took.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gaekit.errors import ArtifactError
from gaekit.store.files import atomic

CURVES = "curves.jsonl"


@dataclass(frozen=True)
class Curves:
    """`scalars`: by name, (step, value) with rising steps; nan where the value was not finite. `seconds`: (step, the
    training's seconds up to it)."""

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: list[tuple[int, float]] = field(default_factory=list)

    def under(self, prefix: str) -> dict[str, list[tuple[int, float]]]:
        """The scalars whose names begin so, by their whole names."""
        return {name: points for name, points in self.scalars.items() if name.startswith(prefix)}


def read_curves(path: Path, last: int | None = None) -> Curves:
    """The curves in a file `curves.jsonl`, up to step `last`; none where there is no such file: the stage trains
    nothing, or has logged nothing yet.

    A last line that is being written, or was cut short by a kill, counts as not there. Raises ArtifactError, with the
    line's number, for any other that is not of this form.
    """
    curves = Curves()
    for step, seconds, scalars in _lines(path):
        if last is not None and step > last:
            break
        if not curves.seconds or curves.seconds[-1][0] != step:
            curves.seconds.append((step, seconds))
        for name, value in scalars.items():
            curves.scalars.setdefault(name, []).append((step, math.nan if value is None else value))
    return curves


def line_of(step: int, seconds: float, scalars: Mapping[str, float]) -> bytes:
    """A line of the file."""
    finite = {name: float(value) if math.isfinite(value) else None for name, value in scalars.items()}
    return json.dumps({"step": step, "seconds": seconds, "scalars": finite}, allow_nan=False).encode() + b"\n"


def cut_curves(path: Path, step: int, into: Path | None = None) -> None:
    """Remove what is beyond a step, and what a kill left half-written; `into`: leave the file as it is, and write what
    would be left to another. Where there is no file, nothing is done."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (found := _parsed(line)) is not None and found[0] <= step]
    if into is not None or len(kept) < len(lines):
        with atomic(into or path) as part:
            part.write_bytes(b"".join(kept))


Line = tuple[int, float, dict[str, float | None]]


def _lines(path: Path) -> Iterator[Line]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        found = _parsed(line)
        if found is None and number == len(lines) and not line.endswith(b"\n"):
            return
        if found is None:
            raise ArtifactError(f"{path}:{number}: damaged: no line of curves, got {ascii(line[:80])[2:-1]}")
        yield found


def _parsed(line: bytes) -> Line | None:
    """(step, seconds, scalars) of a whole line; None where it is something else."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
        step, seconds, scalars = found["step"], found["seconds"], found["scalars"]
        if type(step) is not int or not all(v is None or isinstance(v, int | float) for v in scalars.values()):
            return None
        return step, float(seconds), dict(scalars)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
