"""A plugin whose hook forgets to return."""

from __future__ import annotations

from gaekit.api import hookimpl


@hookimpl
def gaekit_components() -> None:
    pass
