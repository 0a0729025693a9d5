"""gaekit's trackers: where scalars and images of a training go."""

from gaekit.api import Component, hookimpl
from gaekit_trackers.mlflow import Mlflow
from gaekit_trackers.tensorboard import TensorBoard
from gaekit_trackers.trackio import Trackio
from gaekit_trackers.weights_and_biases import Wandb


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The trackers."""
    return [TensorBoard, Wandb, Mlflow, Trackio]
