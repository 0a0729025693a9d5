"""A plugin that misspells the hook."""

from __future__ import annotations

from gaekit.api import Component, hookimpl


@hookimpl
def gaekit_component() -> list[type[Component]]:
    return []
