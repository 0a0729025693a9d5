"""gaekit's image encoders and decoders."""

from __future__ import annotations

from gaekit.api import Component, hookimpl
from gaekit_autoencoders.conv import ConvDecoder, ConvEncoder
from gaekit_autoencoders.dc_ae import DcAeDecoder, DcAeEncoder
from gaekit_autoencoders.frozen_teacher import FrozenTeacherEncoder
from gaekit_autoencoders.rae import RaeDecoder, RaeEncoder
from gaekit_autoencoders.vit import ViTDecoder, ViTEncoder


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The encoders and decoders of this package."""
    return [
        ConvEncoder,
        ConvDecoder,
        DcAeEncoder,
        DcAeDecoder,
        FrozenTeacherEncoder,
        RaeEncoder,
        RaeDecoder,
        ViTEncoder,
        ViTDecoder,
    ]
