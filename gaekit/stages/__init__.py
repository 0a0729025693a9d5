"""The stages, in order. A stage is a module with NAME, REVISION, NEEDS, ARTIFACT, READS_DATA, `parts(recipe)` and
`run(job)`."""

from __future__ import annotations

from types import ModuleType

from gaekit.stages import autoencoder, diffusion, evaluate, latents, sample, semantic

STAGES: tuple[ModuleType, ...] = (semantic, autoencoder, latents, diffusion, sample, evaluate)
