"""A plugin that forgets to mark its hook."""

from __future__ import annotations

from gaekit.api import Component


def gaekit_components() -> list[type[Component]]:
    return []
