"""MLflow."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from gaekit.api import ComponentConfig, TrackedStage, require
from gaekit_trackers.kept import KeptRun, SteppedTracker, flat, pixels, title

LONGEST_PARAMETER = 500
"""Characters that every MLflow server takes."""
PARAMETERS_AT_ONCE = 100


class MlflowConfig(ComponentConfig):
    """Settings of `mlflow`."""

    project: str = Field(default="gaekit", description="the experiment")
    uri: str | None = Field(
        default=None,
        description="server or database, such as sqlite:///runs/mlflow.db; null is MLFLOW_TRACKING_URI, or where that "
        "is not set a database in the tracker's folder, without a network",
    )
    name: str | None = Field(default=None, description="of the run; null is the recipe's")
    tags: dict[str, str] = Field(default={}, description="to find the run by")


class Mlflow(SteppedTracker):
    """MLflow (`pip install 'gaekit[mlflow]'`): a run for each stage, with the recipe's settings as parameters.

    A resumed stage goes on in the same run. A database of one's own is looked at by `mlflow ui --backend-store-uri`.
    """

    name = "mlflow"
    Config = MlflowConfig
    config: MlflowConfig

    def __init__(self, config: MlflowConfig, *, folder: Path, purge_step: int, stage: TrackedStage):
        super().__init__(config, folder=folder, purge_step=purge_step, stage=stage)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for chatty in ("alembic", "mlflow.store.db.utils"):  # they tell each table of a new database
            logging.getLogger(chatty).setLevel(logging.WARNING)
        mlflow = require("mlflow", extra="mlflow", wanted_by="tracker 'mlflow'")
        self._entities: Any = require("mlflow.entities", extra="mlflow", wanted_by="tracker 'mlflow'")
        self.kept = KeptRun(folder)
        own = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or own
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self._artifacts = (folder / "artifacts").resolve().as_uri() if uri == own else None
        self._id = self.kept.id or self.kept.call(self._begin())
        self._client.update_run(self._id, status="RUNNING")

    def _begin(self) -> str:
        """A new run with the recipe's settings; -> its id."""
        found = self._client.get_experiment_by_name(self.config.project)
        experiment = found.experiment_id if found else self._client.create_experiment(
            self.config.project, artifact_location=self._artifacts
        )  # fmt: skip
        tags = {**self.config.tags, "run": self.config.name or self.stage.run, "stage": self.stage.stage}
        run = self._client.create_run(experiment, run_name=title(self.config.name, self.stage), tags=tags)
        settings = [
            self._entities.Param(_allowed(key), str(value)[:LONGEST_PARAMETER])
            for key, value in flat(self.stage.recipe)
        ]
        for first in range(0, len(settings), PARAMETERS_AT_ONCE):
            self._client.log_batch(run.info.run_id, params=settings[first : first + PARAMETERS_AT_ONCE])
        self._client.log_dict(run.info.run_id, dict(self.stage.recipe), "recipe.yaml")
        return str(run.info.run_id)

    def _log(self, step: int, scalars: Mapping[str, float], images: Mapping[str, Tensor]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(_allowed(name), value, now, step) for name, value in scalars.items()]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)
        for name, image in images.items():
            self._client.log_image(self._id, pixels(image), key=_allowed(name), step=step)

    def close(self) -> None:
        """Say that the stage has ended; a resumed one says that it runs again."""
        self._client.set_terminated(self._id)


def _allowed(name: str) -> str:
    """A name that MLflow takes: `metrics[0].use` becomes `metrics.0.use`."""
    return name.replace("[", ".").replace("]", "").replace("#", "-")
