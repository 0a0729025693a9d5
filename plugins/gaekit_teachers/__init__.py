"""gaekit's teachers: frozen vision models whose features shape the latent space."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_teachers.clip import Clip
from gaekit_teachers.efficientnet import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2
from gaekit_teachers.presets import DinoV2, DinoV3, Mae, Siglip, Siglip2
from gaekit_teachers.timm_models import Timm


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The teachers."""
    return [
        EfficientNetLite0, EfficientNetLite1, EfficientNetLite2, Timm, DinoV2, DinoV3, Siglip, Siglip2, Mae, Clip,
    ]  # fmt: skip
