"""A plugin that needs an API of the future."""

from __future__ import annotations

from torch import Tensor

from gaekit.api import Component, Draws, Latent, NoiseSampler, hookimpl

GAEKIT_API = 99


class Future(NoiseSampler):
    """Noise of the future."""

    name = "future"

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        return latent.mean_BDHW


@hookimpl
def gaekit_components() -> list[type[Component]]:
    return [Future]
