"""Noise that the decoder learns to see through."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_noises.noises import Constant, Dynamic, HalfNormal, Interpolate, Uniform


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The samplers of noise."""
    return [Constant, Dynamic, Uniform, HalfNormal, Interpolate]
