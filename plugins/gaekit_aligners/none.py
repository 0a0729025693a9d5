"""No alignment."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gaekit.api import Aligner, ComponentConfig, Latent, Losses


class NoneConfig(ComponentConfig):
    """Settings of `none`: there are none."""


class NoAligner(Aligner):
    """No alignment: an autoencoder that never looks at a teacher."""

    name = "none"
    Config = NoneConfig
    needs_teacher: ClassVar[bool] = False

    def target(self, feature_BFHW: Tensor) -> Tensor:
        """The features as they are; nothing uses them."""
        return feature_BFHW.detach()

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        """No terms."""
        return {}
