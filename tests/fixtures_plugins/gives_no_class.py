"""A plugin that gives something else than component classes."""

from __future__ import annotations

from gaekit.api import hookimpl


@hookimpl
def gaekit_components() -> list[str]:
    return ["dynamic"]
