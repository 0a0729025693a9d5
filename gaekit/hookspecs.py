"""The one hook of gaekit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from gaekit.api import Component

hookspec = pluggy.HookspecMarker("gaekit")


@hookspec
def gaekit_components() -> list[type[Component]]:  # type: ignore[empty-body]
    """The component classes that this plugin provides; called once, when plugins are loaded."""
