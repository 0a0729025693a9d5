"""Whether an artifact that a recipe takes by `{from: PATH}` is of the sizes that the recipe says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError
from gaekit.recipe.schema import Recipe
from gaekit.store.artifact import open_artifact
from gaekit.store.files import read_json

_KINDS = {"semantic": "aligner", "autoencoder": "autoencoder", "diffusion": "denoiser"}
"""The kind of artifact of each stage; that of latents is a folder with a manifest."""


def check_taken(stage: str, artifact: Path, recipe: Recipe) -> None:
    """Raises ArtifactError, naming the recipe's key, where a taken artifact has other sizes than the recipe."""
    if stage in _KINDS:
        config: Mapping[str, Any] = open_artifact(artifact, _KINDS[stage]).config
    else:
        config = read_json(artifact if artifact.is_file() else artifact / "manifest.json")
    wanted = {
        "image_size": (recipe.image.size, "image.size"),
        "stride": (recipe.image.stride, "image.stride"),
        "latent_dim": (recipe.latent_dim, "latent_dim"),
        "channels": (recipe.latent_dim, "latent_dim"),
        "grid": (recipe.image.grid, "image.size / image.stride"),
    }
    faults = [
        f"{key} is {value}, and it is made for {config[name]}"
        for name, (value, key) in wanted.items()
        if name in config and config[name] != value
    ]
    if faults:
        raise ArtifactError(f"{stage}.from: {artifact} does not fit this recipe: {'; '.join(faults)}")
