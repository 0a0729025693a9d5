"""What trackers share whose services give a run a name of their own and take no step twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gaekit.api import TrackedStage, Tracker

FILE = "tracked.json"


class KeptRun:
    """In a tracker's folder: which run of the service the stage is, and the last step that it was given.

    A stage that is resumed goes on in that run. The steps that it takes again have the same numbers as before, so they
    are left out, and steps only ever rise.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / FILE
        self._facts: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    @property
    def id(self) -> str | None:
        """What the service calls the run; None before the first time."""
        return self._facts.get("id")

    def call(self, name: str) -> str:
        """Remember what the service calls it."""
        self._keep(id=name)
        return name

    @property
    def next(self) -> int:
        """The first step that has not been given yet."""
        return 1 + int(self._facts.get("step", -1))

    def gave(self, step: int) -> None:
        """Remember that a step has been given."""
        self._keep(step=step)

    def _keep(self, **facts: Any) -> None:
        self._facts |= facts
        part = self._file.with_name(f".{FILE}.part")
        part.write_text(json.dumps(self._facts))
        os.replace(part, self._file)


class SteppedTracker(Tracker):
    """A tracker that continues the service's run: `_log` gets each step once, in rising order.

    A subclass makes `self.kept` in its constructor and says how numbers and pictures are sent.
    """

    kept: KeptRun

    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """Send scalars and image grids (3, height, width) in [0, 1], unless that step was sent before."""
        if step >= self.kept.next:
            self._log(step, scalars, images)
            self.kept.gave(step)

    def results(self, numbers: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """Send what a stage found once, after whatever was sent before."""
        self.log(self.kept.next, numbers, images)

    def _log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        raise NotImplementedError


def title(name: str | None, stage: TrackedStage) -> str:
    """What a person reads: the setting `name`, or the run's name; and the stage."""
    return f"{name or stage.run}/{stage.stage}"


def pixels(image: Tensor) -> Any:
    """A grid (3, height, width) in [0, 1] as a uint8 array (height, width, 3)."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(section.key, value) of a recipe, lists of sections with their numbers; what is no number or text, as text."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{key}[{number}]")
    else:
        yield key, value if isinstance(value, bool | int | float | str) else "none" if value is None else str(value)
