"""The stages, in order: a module each, which declares its `Stage` at its end."""

from __future__ import annotations

from gaekit.stages import autoencoder, diffusion, evaluate, latents, sample, semantic
from gaekit.stages.stage import Stage

STAGES: tuple[Stage, ...] = tuple(
    module.STAGE for module in (semantic, autoencoder, latents, diffusion, sample, evaluate)
)


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)
