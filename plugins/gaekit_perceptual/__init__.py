"""gaekit's perceptual distances."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_perceptual.lpips import Lpips
from gaekit_perceptual.none import NoPerceptual
from gaekit_perceptual.teacher import TeacherDistance


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The perceptual distances."""
    return [Lpips, NoPerceptual, TeacherDistance]
