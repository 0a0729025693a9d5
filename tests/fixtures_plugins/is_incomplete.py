"""A plugin with a component that lacks a method."""

from __future__ import annotations

from gaekit.api import Component, NoiseSampler, hookimpl


class Half(NoiseSampler):
    """Half of a noise sampler."""

    name = "half"


@hookimpl
def gaekit_components() -> list[type[Component]]:
    return [Half]
