"""`gaekit export`: an artifact becomes a file that the published code reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.interop.autoencoders import write_autoencoder
from gaekit.interop.denoisers import write_denoiser
from gaekit.interop.diffusers_vae import config_of, from_published, write_folder
from gaekit.interop.formats import FORMATS, Format, find_format
from gaekit.interop.latent_cache import export_cache
from gaekit.interop.semantic_teacher import to_gae
from gaekit.interop.statistics import write_statistics
from gaekit.plugins import Registry
from gaekit.store.artifact import Artifact, open_artifact, resolve
from gaekit.store.files import atomic
from gaekit.store.models import DenoiserSpec, Statistics

Weights = Literal["ema", "model"]
Names = Literal["published", "diffusers"]
State = dict[str, Tensor]
KINDS = {"semantic": "aligner", "autoencoder": "autoencoder", "diffusion": "denoiser"}
"""The kind of artifact of each stage."""
_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
_EXPECTED: dict[str, dict[str, dict[str, Any]]] = {
    "gae": {
        "encoder": {"use": "vit", "norm": "rms", "qk_norm": True, "rope": False},
        "decoder": {"use": "vit", "norm": "rms", "qk_norm": True, "rope": False, "conv_width": None},
        "regularizer": {"use": "rms_norm"},
    },
    "ldm-vae": {
        "encoder": {"use": "conv", "patch": 1},
        "decoder": {"use": "conv", "patch": 1, "restore": False},
    },
    "diffusers": {"regularizer": {"use": "kl", "clamp": [-30.0, 20.0]}},
}
"""What the published code does without saying so in its files."""
WRITTEN = f"it writes {', '.join(name for name, found in FORMATS.items() if found.exported)}"


def export_artifact(
    name: str,
    path: Path,
    out: Path,
    registry: Registry,
    *,
    weights: Weights | None = None,
    stats: Path | None = None,
    names: Names = "published",
    scale: float | None = None,
) -> list[Path]:
    """Write the artifact at `path` (a file, an import, a run) in the format `name` to `out`; returns the files.

    `out` ends in .pt, .ckpt or .safetensors (bare tensors); it is a folder for gae-latents and in diffusers' `names`,
    which ldm-vae alone has. `weights` picks the averaged or the plain ones (default: averaged where there are some; a
    denoiser's .pt holds both). `stats` is where the statistics of a denoiser's latents go; `scale` is diffusers' factor
    of the latents. Raises ArtifactError for what the format has no place for.
    """
    found = find_format(name)
    if not found.exported:
        raise ArtifactError(f"gaekit writes no file of format {name}; {WRITTEN}")
    _check_names(found, names, scale)
    artifact = resolve(path, found.stage, found.artifact)
    if found.stage == "latents":
        return export_cache(artifact.parent if artifact.is_file() else artifact, out)
    if names == "published" and out.suffix not in _SUFFIXES:
        raise ArtifactError(f"{out}: --out names a file that ends in .pt, .pth, .ckpt or .safetensors")
    if names == "diffusers" and out.suffix in _SUFFIXES:
        raise ArtifactError(f"{out}: in diffusers' names --out is a folder, for the weights and their config.json")
    if stats is not None and found.stage != "diffusion":
        raise ArtifactError("--stats is for denoisers: no other format has statistics of latents")
    opened = open_artifact(artifact, KINDS[found.stage])
    sets = _sets(found, opened, registry)
    if weights is not None and weights not in sets:
        raise ArtifactError(f"{artifact}: --weights {weights}, but it holds {', '.join(sets)}")
    if names == "diffusers":
        return _write_diffusers(out, opened, _best(sets, weights), scale)
    _write(found, out, sets, weights)
    if stats is not None:
        numbers = opened.tensors("statistics")
        write_statistics(stats, Statistics(numbers["mean"], numbers["std"]))
    return [out] if stats is None else [out, stats]


def _sets(found: Format, artifact: Artifact, registry: Registry) -> dict[str, State]:
    """The sets of weights, under the names of the format: "model", and "ema" where there is one."""
    kept = {"ema": artifact.tensors("ema"), "model": artifact.tensors("weights")}
    _check_parts(artifact, found.name, _EXPECTED.get(found.name) or {KINDS[found.stage]: {"use": found.component}})
    if found.stage == "diffusion":
        spec = DenoiserSpec.from_json(artifact.config, registry, str(artifact.path))
        null_row = _imported(artifact).get("null_row", True)
        return {key: write_denoiser(found.name, state, spec, null_row=null_row) for key, state in kept.items() if state}
    if found.stage == "semantic":
        return {"model": to_gae(kept["model"])}
    return {key: write_autoencoder(found.name, state) for key, state in kept.items() if state}


def _check_names(found: Format, names: Names, scale: float | None) -> None:
    """Raises ArtifactError for options that the format has not."""
    if names == "diffusers" and found.name != "ldm-vae":
        raise ArtifactError(f"--names diffusers is for ldm-vae, diffusers' AutoencoderKL; {found.name} has one naming")
    if scale is not None and names != "diffusers":
        raise ArtifactError("--scale is for --names diffusers: no other file of an autoencoder holds a factor")
    if scale is not None and not 0 < scale < math.inf:
        raise ArtifactError(f"--scale {scale:g}: the factor of the latents is a number above 0")


def _check_parts(artifact: Artifact, name: str, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ArtifactError for an artifact of other components than the format `name` has."""
    for part, settings in wanted.items():
        given = artifact.config.get(part)
        if not isinstance(given, dict):
            raise ArtifactError(f"{artifact.path}: its head describes no {part}; it is damaged")
        for key, value in settings.items():
            if given.get(key, value) != value:
                raise ArtifactError(
                    f"{artifact.path}: its {part} has {key} {given.get(key)}; the format {name} is for {key} {value}"
                )


def _write_diffusers(out: Path, artifact: Artifact, weights: State, scale: float | None) -> list[Path]:
    _check_parts(artifact, "ldm-vae in diffusers' names", _EXPECTED["diffusers"])
    told, size = _imported(artifact).get("diffusers"), artifact.config.get("image_size")
    factors = dict(told) if isinstance(told, dict) else {}
    if scale is not None:
        factors["scaling_factor"] = scale
    if not factors:
        raise ArtifactError(
            f"{artifact.path}: does not tell what diffusers multiplies its latents by; say it with --scale F: 0.18215 "
            "for Stable Diffusion's, 1 for latents as they are"
        )
    if type(size) is not int or size < 1:
        raise ArtifactError(f"{artifact.path}: its head has no image_size; it is damaged")
    state = from_published(weights)
    return write_folder(out, state, config_of(state, image_size=size, factors=factors))


def _imported(artifact: Artifact) -> dict[str, Any]:
    """What the artifact says of the file that it was imported from."""
    told = artifact.config.get("imported")
    return told if isinstance(told, dict) else {}


def _best(sets: Mapping[str, State], weights: Weights | None) -> State:
    return sets[weights or ("ema" if "ema" in sets else "model")]


def _write(found: Format, out: Path, sets: Mapping[str, State], weights: Weights | None) -> None:
    best = _best(sets, weights)
    content: dict[str, Any]
    if found.stage == "diffusion":
        content = {"model": best if weights else sets["model"], "ema": best}
    else:
        content = {"model_state_dict" if found.stage == "semantic" else "state_dict": best}
    with atomic(out) as part:
        if out.suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in best.items()}, part)
        else:
            torch.save(content, part)
