"""gaekit's denoisers."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_denoisers.dit import DiT
from gaekit_denoisers.dit_dh import DiTDH
from gaekit_denoisers.lightning_dit import LightningDiT
from gaekit_denoisers.sit import SiT


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The denoisers of this package."""
    return [LightningDiT, DiT, SiT, DiTDH]
