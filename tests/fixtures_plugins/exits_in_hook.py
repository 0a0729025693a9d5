"""A plugin whose hook ends the process."""

from __future__ import annotations

from gaekit.api import Component, hookimpl


@hookimpl
def gaekit_components() -> list[type[Component]]:
    raise SystemExit(3)
