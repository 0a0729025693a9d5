"""gaekit's trackers: where scalars and images of a training go."""

from gaekit.api import Component, hookimpl
from gaekit_trackers.tensorboard import TensorBoard


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The trackers."""
    return [TensorBoard]
