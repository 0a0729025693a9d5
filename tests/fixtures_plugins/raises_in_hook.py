"""A plugin whose hook raises."""

from __future__ import annotations

from gaekit.api import Component, hookimpl


@hookimpl
def gaekit_components() -> list[type[Component]]:
    raise KeyError("teeth")
