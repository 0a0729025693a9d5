"""Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from gaekit.api import ComponentConfig, TrackedStage, require
from gaekit_trackers.kept import KeptRun, SteppedTracker, pixels, title


class WandbConfig(ComponentConfig):
    """Settings of `wandb`."""

    project: str = Field(default="gaekit", description="the project at Weights & Biases")
    entity: str | None = Field(default=None, description="user or team; null is your own")
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline: kept on disk, sent later by `wandb sync`; nothing else goes out"
    )
    name: str | None = Field(default=None, description="of the group of the run's stages; null is the run's name")
    tags: tuple[str, ...] = Field(default=(), description="to find the run by")
    notes: str | None = Field(default=None, description="a longer description")


class Wandb(SteppedTracker):
    """Weights & Biases (`pip install 'gaekit[wandb]'`): a run for each stage, all of a run in a group.

    A resumed stage goes on in the same run. What is sent in mode `offline` stays in the room's
    `trackers/wandb/wandb/offline-run-*`, for `wandb sync`.
    """

    name = "wandb"
    Config = WandbConfig
    config: WandbConfig

    def __init__(self, config: WandbConfig, *, folder: Path, purge_step: int, stage: TrackedStage):
        super().__init__(config, folder=folder, purge_step=purge_step, stage=stage)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb: Any = require("wandb", extra="wandb", wanted_by="tracker 'wandb'")
        self.kept = KeptRun(folder)
        self._run: Any = self._wandb.init(
            project=config.project, entity=config.entity, mode=config.mode, group=config.name or stage.run,
            name=title(config.name, stage), job_type=stage.stage, tags=list(config.tags), notes=config.notes,
            config=dict(stage.recipe), dir=str(folder), id=self.kept.id or self.kept.call(uuid.uuid4().hex),
            resume="allow", reinit="create_new", save_code=False,
            settings=self._wandb.Settings(
                silent=True, console="off", disable_git=True, x_save_requirements=False,
                x_disable_stats=config.mode == "offline", x_disable_machine_info=config.mode == "offline",
            ),
        )  # fmt: skip

    def _log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        self._run.log({**scalars, **self._pictures(images)}, step=step)

    def results(self, numbers: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        """Numbers go to the run's summary, images to its media."""
        self._run.summary.update(dict(numbers))
        if images:
            self._run.log(self._pictures(images))

    def _pictures(self, images: Mapping[str, Tensor]) -> dict[str, Any]:
        return {name: self._wandb.Image(pixels(image)) for name, image in images.items()}

    def close(self) -> None:
        """Have everything written or sent."""
        self._run.finish()
