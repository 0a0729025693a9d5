"""SiT (arXiv 2401.08740): DiT's network on an interpolant in continuous time."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from gaekit.api import Prediction, Quantity
from gaekit_denoisers.dit import PlainConfig, plain_blueprint
from gaekit_denoisers.transformer import TransformerDenoiser


class SiTConfig(PlainConfig):
    """Settings of SiT; the defaults are those of the published models."""

    predicts: Quantity = Field(default="velocity", description="what the network is trained to answer")
    learn_sigma: bool = Field(
        default=True, description="twice the output channels, of which the second half is unused, as published"
    )


class SiT(TransformerDenoiser):
    """DiT's network in continuous time, which predicts the velocity, the noise, the score or the data."""

    name = "sit"
    Config = SiTConfig

    def __init__(self, config: SiTConfig, *, channels: int, grid: int, classes: int):
        blueprint = plain_blueprint(config, channels * 2 if config.learn_sigma else channels)
        super().__init__(config, blueprint, channels=channels, grid=grid, classes=classes)
        self.predicts = config.predicts

    def _prediction(self, out: Tensor, features: dict[str, Tensor]) -> Prediction:
        return Prediction(out[:, : self.channels], features=features)
