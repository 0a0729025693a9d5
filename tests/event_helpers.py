"""TensorBoard's own readers on the folder of a tracker."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_events(folder: Path, reader: Any = EventAccumulator, kinds: tuple[str, ...] = ("scalars", "images")) -> Any:
    """What stands in a tracker's `*.events`, each under the name by which TensorBoard knows its files."""
    with tempfile.TemporaryDirectory() as shown:
        for file in folder.glob("*.events"):
            Path(shown, f"events.out.tfevents.{file.stem}").symlink_to(file.resolve())
        return reader(shown, size_guidance=dict.fromkeys(kinds, 0)).Reload()
