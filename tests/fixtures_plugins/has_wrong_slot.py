"""A plugin with a slot for a kind that does not exist."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from gaekit.api import Component, ComponentConfig, Draws, Latent, NoiseSampler, Slot, hookimpl


class Config(ComponentConfig):
    inner: Annotated[ComponentConfig, Slot("nois")]


class Nested(NoiseSampler):
    """Noise of noise."""

    name = "nested"
    Config = Config

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        return latent.mean_BDHW


@hookimpl
def gaekit_components() -> list[type[Component]]:
    return [Nested]
