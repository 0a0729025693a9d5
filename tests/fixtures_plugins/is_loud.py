"""A plugin that prints, warns and takes its time when it is imported."""

from __future__ import annotations

import time
import warnings

from torch import Tensor

from gaekit.api import Component, Draws, Latent, NoiseSampler, hookimpl

print("hello from the plugin")
warnings.warn("old", DeprecationWarning, stacklevel=1)
time.sleep(0.2)


class Loud(NoiseSampler):
    """Loud noise."""

    name = "loud"

    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        return latent.mean_BDHW


@hookimpl
def gaekit_components() -> list[type[Component]]:
    return [Loud]
