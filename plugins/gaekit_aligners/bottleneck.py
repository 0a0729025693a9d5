"""What aligners in the bottleneck have in common: the latent's mean is pulled to a target of its own width."""

from __future__ import annotations

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from gaekit.api import Aligner, ComponentConfig, Latent, Loss, Losses
from gaekit_aligners.losses import Distance, distance


class BottleneckConfig(ComponentConfig):
    """Settings of the alignment term."""

    weight: NonNegativeFloat = Field(default=1.0, description="of the alignment term in the autoencoder's loss")
    loss: Distance = Field(
        default="mse", description="between latent mean and target: mse, or 1 - cosine over channels"
    )


class BottleneckAligner(Aligner):
    """Pulls the latent's mean to a target of RMS 1 over channels; a subclass makes the target.

    The mean is measured in units of its own scale (`Latent.scale`), so that a latent which a norm holds at another RMS
    can reach the target, and is pulled as strongly.
    """

    config: BottleneckConfig

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        """`align`: the distance of the latent's mean from the target, in float32."""
        mean_BDHW = latent.mean_BDHW
        with torch.autocast(device_type=mean_BDHW.device.type, enabled=False):
            value = distance(mean_BDHW.float() / latent.scale, target, self.config.loss)
        return {"align": Loss(value, self.config.weight)}
