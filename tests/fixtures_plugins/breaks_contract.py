"""A plugin with a component without a docstring."""

from __future__ import annotations

from torch import Tensor

from gaekit.api import Draws, Latent, NoiseSampler


class Silent(NoiseSampler):
    name = "silent"

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        return latent.mean_BDHW
