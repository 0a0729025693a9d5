"""A plugin that takes the name of a built-in."""

from __future__ import annotations

from torch import Tensor

from gaekit.api import Component, Draws, Latent, NoiseSampler, hookimpl


class Dynamic(NoiseSampler):
    """Another dynamic noise."""

    name = "dynamic"

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        return latent.mean_BDHW


@hookimpl
def gaekit_components() -> list[type[Component]]:
    return [Dynamic]
