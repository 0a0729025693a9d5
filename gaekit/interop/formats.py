"""The formats that `gaekit import` reads and `gaekit export` writes, and what a person can say about a file.

Light on purpose: the command line lists the formats without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from gaekit.errors import GaekitError


@dataclass(frozen=True)
class Options:
    """What a file may not tell of itself; None is not said. Each is an option of `gaekit import`."""

    weights: Literal["ema", "model"] | None = None
    heads: int | None = None
    decoder_heads: int | None = None
    decoder_depth: int | None = None
    image_size: int | None = None
    grid: int | None = None
    absolute_positions: bool | None = None
    path: Literal["linear", "gvp", "vp"] | None = None
    predicts: Literal["velocity", "noise", "score", "data"] | None = None
    stats: Path | None = None
    scale: float | None = None
    classes: Path | None = None

    @property
    def given(self) -> list[str]:
        """Names of what was said."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


@dataclass(frozen=True)
class Format:
    """A published format: the stage of a recipe that takes it, the artifact's name there, and its options.

    `diffusers` is the class of diffusers whose folder it is, where it is one's alone; `exported` says whether gaekit
    writes it too.
    """

    name: str
    summary: str
    stage: Literal["semantic", "autoencoder", "latents", "diffusion"]
    options: frozenset[str]
    component: str = ""
    diffusers: str = ""
    exported: bool = True

    @property
    def artifact(self) -> str:
        """The name of the artifact in the folder that an import makes."""
        return ARTIFACTS[self.stage]


ARTIFACTS = {
    "semantic": "aligner.safetensors",
    "autoencoder": "autoencoder.safetensors",
    "latents": "latents",
    "diffusion": "denoiser.safetensors",
}
"""Where each stage of a recipe looks for its artifact in the folder of `{from: PATH}`."""

_DENOISER = frozenset({"weights", "heads", "grid", "stats", "scale", "classes"})

FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format("gae", "GAE's tokenizer: an autoencoder", "autoencoder",
               frozenset({"weights", "heads", "decoder_heads"}), "vit"),
        Format("gae-semantic", "GAE's semantic teacher: an aligner `latent`", "semantic",
               frozenset({"weights", "heads"}), "latent"),
        Format("ldm-vae", "autoencoder of latent diffusion: SD-VAE, VA-VAE; or diffusers' AutoencoderKL", "autoencoder",
               frozenset({"weights", "image_size"}), "conv"),
        Format("flux2-vae", "FLUX.2's autoencoder: diffusers' AutoencoderKLFlux2, or its authors' file", "autoencoder",
               frozenset({"weights", "image_size"}), "conv", "AutoencoderKLFlux2", exported=False),
        Format("e2e-vae", "autoencoder of latent diffusion that REPA-E has tuned, with its statistics", "autoencoder",
               frozenset({"image_size", "stats"}), "conv", exported=False),
        Format("dc-ae", "deep compression autoencoder, SANA's: diffusers' AutoencoderDC", "autoencoder",
               frozenset({"weights", "image_size"}), "dc_ae", "AutoencoderDC", exported=False),
        Format("rae", "representation autoencoder RAE, encoder and decoder: diffusers' AutoencoderRAE", "autoencoder",
               frozenset({"weights"}), "rae", "AutoencoderRAE", exported=False),
        Format("lightningdit", "denoiser of GAE and LightningDiT", "diffusion",
               _DENOISER | {"absolute_positions", "path"}, "lightning_dit"),
        Format("dit", "DiT: a denoiser on DDPM's steps", "diffusion", _DENOISER, "dit"),
        Format("sit", "SiT: a denoiser on an interpolant", "diffusion", _DENOISER | {"path", "predicts"}, "sit"),
        Format("dit_dh", "RAE's denoiser DiT-DH, with a wide shallow head", "diffusion",
               _DENOISER | {"decoder_heads", "decoder_depth", "absolute_positions"}, "dit_dh"),
        Format("gae-latents", "GAE's and LightningDiT's folder of latents: a cache to train denoisers on", "latents",
               frozenset({"stats", "scale", "classes"})),
    )
}  # fmt: skip
"""Every format by its name on the command line."""


def find_format(name: str) -> Format:
    """The format of that name. Raises GaekitError with the known names."""
    if name not in FORMATS:
        raise GaekitError(f"unknown format '{name}'; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def check_options(found: Format, options: Options) -> None:
    """Raises GaekitError for an option that says nothing about a file of this format."""
    for name in options.given:
        if name not in found.options:
            known = ", ".join(f"--{option.replace('_', '-')}" for option in sorted(found.options))
            raise GaekitError(f"--{name.replace('_', '-')} says nothing about a file of format {found.name}, "
                              f"which takes {known}")  # fmt: skip
