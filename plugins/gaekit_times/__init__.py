"""Times that denoisers are trained at."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_times.times import LogitNormal, Uniform


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The samplers of times."""
    return [Uniform, LogitNormal]
