"""TensorBoard event files."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, Tracker


class TensorBoardConfig(ComponentConfig):
    """Settings of `tensorboard`."""

    flush_secs: PositiveInt = Field(default=10, description="seconds until what was logged is on disk, at most")


class TensorBoard(Tracker):
    """Scalars and images as TensorBoard event files: `tensorboard --logdir <folder>`.

    A resumed run writes a new file beside the old; values of the old one at `purge_step` and later are hidden, so that
    the steps that are taken again show once, and those before it stay.
    """

    name = "tensorboard"
    Config = TensorBoardConfig
    config: TensorBoardConfig

    def __init__(self, config: TensorBoardConfig, *, folder: Path, purge_step: int):
        super().__init__(config, folder=folder, purge_step=purge_step)
        from torch.utils.tensorboard import SummaryWriter

        _say_failures_once()
        # At 0 too: a run killed before its first checkpoint starts over in the same folder.
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=config.flush_secs)

    def log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """Write scalars and image grids (3, height, width) in [0, 1] under their names at `step`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        for name, image in images.items():
            self._writer.add_image(name, image.detach().float().cpu(), step)

    def close(self) -> None:
        """Flush everything to disk and close the file."""
        self._writer.close()


def _say_failures_once() -> None:
    """TensorBoard's thread keeps what it fails with for the next call, which raises it; Python would also print it as a
    traceback of that thread."""
    before = threading.excepthook
    if getattr(before, "_hides_tensorboard", False):
        return

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            before(failed)

    hook._hides_tensorboard = True  # type: ignore[attr-defined]
    threading.excepthook = hook
