"""Trackio."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from gaekit.api import ComponentConfig, TrackedStage, require
from gaekit_trackers.kept import KeptRun, SteppedTracker, pixels, title


class TrackioConfig(ComponentConfig):
    """Settings of `trackio`."""

    project: str = Field(default="gaekit", description="the project")
    space: str | None = Field(
        default=None, description="user/name of a Hugging Face Space to send all to; null keeps it on this machine"
    )
    name: str | None = Field(default=None, description="of the group of the run's stages; null is the run's name")


class Trackio(SteppedTracker):
    """Trackio (`pip install 'gaekit[trackio]'`): a run for each stage, all of a run in a group.

    `trackio show` opens it. A resumed stage goes on in the same run. Without a `space` nothing leaves the
    machine; all is kept where Trackio keeps its projects (TRACKIO_DIR, by default ~/.cache/huggingface/trackio).
    """

    name = "trackio"
    Config = TrackioConfig
    config: TrackioConfig

    def __init__(self, config: TrackioConfig, *, folder: Path, purge_step: int, stage: TrackedStage):
        super().__init__(config, folder=folder, purge_step=purge_step, stage=stage)
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        self._trackio: Any = require("trackio", extra="trackio", wanted_by="tracker 'trackio'")
        self.kept = KeptRun(folder)
        # Runs go by their names there: those of two rooms, such as before and after --redo, must differ.
        called = self.kept.id or self.kept.call(f"{title(config.name, stage)}-{uuid.uuid4().hex[:6]}")
        with redirect_stdout(io.StringIO()), nullcontext() if config.space else _no_hub():
            self._run: Any = self._trackio.init(
                project=config.project, name=called, group=config.name or stage.run, space_id=config.space,
                config=dict(stage.recipe), resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip

    def _log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        pictures = {name: self._trackio.Image(pixels(image)) for name, image in images.items()}
        self._run.log({**scalars, **pictures}, step=step)

    def close(self) -> None:
        """Have everything written or sent."""
        with redirect_stdout(io.StringIO()), nullcontext() if self.config.space else _no_hub():
            self._trackio.finish()


@contextmanager
def _no_hub() -> Iterator[None]:
    """Keep Trackio from asking the Hugging Face hub for the name of who is logged in there."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
