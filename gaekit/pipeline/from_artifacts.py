"""The artifacts of elsewhere that a recipe names (`{from: PATH}`, `train.init`): where they are, and whether they are
of the recipe's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError
from gaekit.recipe.schema import Diffusion, Recipe
from gaekit.stages import diffusion
from gaekit.stages.stage import Stage
from gaekit.store.artifact import open_artifact, resolve
from gaekit.store.files import read_json, sha256_file
from gaekit.store.shard_reader import read_manifest


def check_imported(stage: Stage, artifact: Path, recipe: Recipe) -> None:
    """Raises ArtifactError, naming the recipe's key, where an artifact taken by `from` has other sizes than the
    recipe."""
    if stage.kind is not None:
        config: Mapping[str, Any] = open_artifact(artifact, stage.kind).config
    else:  # a folder of shards with a manifest
        config = read_json(artifact if artifact.is_file() else artifact / "manifest.json")
    _refuse_others(f"{stage.name}.from", artifact, config, _sizes(recipe))


def check_cache(folder: Path, autoencoder: str | None, data: str | None) -> None:
    """Raises ArtifactError where a cache of latents that a recipe takes is of another autoencoder or of other data.

    autoencoder: the sha256 of the recipe's, "" where the recipe has yet to train it. data: the digest of its data set.
    None is not known, and so is what the manifest of an imported cache does not say.
    """
    facts = read_manifest(folder)
    own = "write `latents: {}` in place of `from`, and `gaekit run` makes a cache of its own"
    made_by, made_of = facts.get("autoencoder"), facts.get("dataset")
    if facts.get("online"):
        raise ArtifactError(
            f"latents.from: {folder} holds statistics alone (`online: true`), there are no latents in it"
        )
    if made_by is not None and autoencoder is not None and made_by != autoencoder:
        other = f"it is {autoencoder[:12]}" if autoencoder else "it is yet to be trained by this recipe"
        raise ArtifactError(
            f"latents.from: {folder} was made by autoencoder {made_by[:12]} (sha256), and this recipe has another: "
            f"{other}; take the two from one run, or {own}"
        )
    if made_of is not None and data is not None and made_of != data:
        raise ArtifactError(
            f"latents.from: {folder} was made of data set {made_of[:12]} (digest), and this recipe's is {data[:12]}: "
            f"images or classes differ; {own}"
        )


def find_external(stage: Stage, recipe: Recipe, *, needed: bool) -> dict[str, Path | None]:
    """The artifacts that a stage's section names beside its inputs, by the input that each becomes.

    One that is absent is None, or where it is `needed`, an ArtifactError, as is one that does not fit the recipe.
    """
    found: dict[str, Path | None] = {}
    for name, external in stage.external(recipe).items():
        if not needed and not external.path.expanduser().exists():
            found[name] = None
        else:
            found[name] = _fitting(external.stage, external.path, external.key, recipe)
    return found


def _fitting(stage: Stage, path: Path, key: str, recipe: Recipe) -> Path:
    """The artifact of a stage behind `path`. Raises ArtifactError, naming the recipe's key, where it is none of that
    stage or does not fit the recipe."""
    assert stage.kind is not None
    try:
        artifact = resolve(path, stage.name, stage.artifact)
        config = open_artifact(artifact, stage.kind).config
    except ArtifactError as error:
        raise ArtifactError(f"{key}: {error}") from error
    wanted, section = _sizes(recipe), recipe.diffusion
    if stage is diffusion.STAGE and isinstance(section, Diffusion):
        wanted |= {"path": (section.path, "diffusion.path"), "betas": (section.betas, "diffusion.betas")}
    _refuse_others(key, artifact, config, wanted)
    return artifact


def find_init(stage: Stage, recipe: Recipe, *, needed: bool) -> str | None:
    """sha256 of the artifact that a stage's training starts from; None where it names none, "absent" where that is
    absent and not `needed`. Raises ArtifactError where it is of another kind or does not fit the recipe."""
    train = stage.training(recipe)
    if train is None or train.init is None:
        return None
    path = Path(train.init)
    if not needed and not path.expanduser().exists():
        return "absent"
    return sha256_file(_fitting(stage, path, f"{stage.name}.train.init", recipe))


def _sizes(recipe: Recipe) -> dict[str, tuple[Any, str]]:
    """What artifacts call the sizes of a recipe: their values, and the recipe's keys."""
    return {
        "image_size": (recipe.image.size, "image.size"),
        "stride": (recipe.image.stride, "image.stride"),
        "latent_dim": (recipe.latent_dim, "latent_dim"),
        "channels": (recipe.latent_dim, "latent_dim"),
        "grid": (recipe.image.grid, "image.size / image.stride"),
    }


def _refuse_others(at: str, artifact: Path, config: Mapping[str, Any], wanted: Mapping[str, tuple[Any, str]]) -> None:
    faults = [
        f"{key} is {value}, and it is made for {config[name]}"
        for name, (value, key) in wanted.items()
        if name in config and config[name] != value
    ]
    if faults:
        raise ArtifactError(f"{at}: {artifact} does not fit this recipe: {'; '.join(faults)}")
