"""Judging images that gaekit did not make, by the same code as a run's own evaluation."""

from gaekit.runs.evaluate.judge import Asked, evaluate_images
from gaekit.runs.evaluate.sets import component_of

__all__ = ["Asked", "component_of", "evaluate_images"]
