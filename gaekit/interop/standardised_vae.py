"""Autoencoders of latent diffusion that come with the statistics of a batch norm, by which their latents are
standardised: FLUX.2's, and those of REPA-E.

The statistics become those of the regularizer `standardize`, and the decoder begins by undoing them. What makes the
log-variances is left out: their users take the means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.interop import diffusers_vae, ldm_vae
from gaekit.interop.autoencoders import both, empty
from gaekit.interop.fitting import check_names, load
from gaekit.interop.formats import Options
from gaekit.interop.reading import State
from gaekit.interop.shapes import side_of, tensor
from gaekit.plugins import Registry
from gaekit.store.models import Autoencoder

FLUX2 = "FLUX.2's autoencoder"
_NORM = "bn."
_INSIDE = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
"""Where the authors keep the 1 x 1 convolutions, and where latent diffusion does."""


@dataclass(frozen=True)
class BatchNorm:
    """The statistics of a batch norm without weights: (D,) each; batches seen; how fast they follow."""

    mean: Tensor
    variance: Tensor
    batches: int
    eps: float
    momentum: float

    @property
    def settings(self) -> dict[str, Any]:
        """As those of a regularizer."""
        return {"use": "standardize", "statistics": "channel", "eps": self.eps, "momentum": self.momentum}

    def state(self) -> State:
        """The tensors of the regularizer, and of the decoder's layer that undoes it."""
        mean, variance = (value.float()[:, None, None] for value in (self.mean, self.variance))
        # torch weighs a batch by the momentum from the first on, ours once it has seen 1 / momentum of them.
        batches = max(self.batches, math.ceil(1 / self.momentum))
        return {
            "regularizer.mean": mean,
            "regularizer.variance": variance,
            "regularizer.batches": torch.tensor(batches),
            "decoder.restore.scale": (variance + self.eps).sqrt(),
            "decoder.restore.shift": mean.clone(),
        }


def read_flux2(state: State, config: Mapping[str, Any], options: Options, registry: Registry) -> Autoencoder:
    """FLUX.2's autoencoder, in the names of diffusers' AutoencoderKLFlux2 or of its authors' own file.

    `config` is what diffusers says beside the weights, {} for nothing: its defaults. Raises ArtifactError for what is
    missing, unexpected or not said.
    """
    norm = BatchNorm(
        mean=tensor(state, "bn.running_mean", FLUX2),
        variance=tensor(state, "bn.running_var", FLUX2),
        batches=int(state.get("bn.num_batches_tracked", torch.tensor(0))),
        eps=float(config.get("batch_norm_eps", 1e-4)),
        momentum=float(config.get("batch_norm_momentum", 0.1)),
    )
    return read_standardised(_without_norm(state), norm, options, registry, kind=FLUX2)


def read_standardised(state: State, norm: BatchNorm, options: Options, registry: Registry, *, kind: str) -> Autoencoder:
    """An autoencoder of latent diffusion, in its own names or diffusers', whose latents `norm` standardises.

    Where `norm` has four times the latent's channels, it is of blocks of 2 x 2 positions, and so on. Raises
    ArtifactError.
    """
    if options.image_size is None:
        raise ArtifactError(ldm_vae.NO_SIZE)
    in_diffusers = diffusers_vae.is_diffusers(state)
    if norm.mean.shape != norm.variance.shape or norm.mean.ndim != 1:
        raise ArtifactError(
            f"its standardisation has a mean of shape {tuple(norm.mean.shape)} and a variance of "
            f"{tuple(norm.variance.shape)}; both hold a number a channel"
        )
    if not (norm.mean.isfinite().all() and norm.variance.isfinite().all() and bool((norm.variance >= 0).all())):
        raise ArtifactError("the mean and variance of its standardisation must be finite, the variance not below 0")
    means = ldm_vae.means_alone(diffusers_vae.to_published(state) if in_diffusers else state)
    sizes = ldm_vae.sizes_of_published(means, resolution=options.image_size, alike=False)
    patch = _patch_of(len(norm.mean), sizes.latent_dim)
    spec = {
        "image_size": options.image_size,
        "stride": sizes.stride * patch,
        "latent_dim": len(norm.mean),
        "encoder": {**sizes.encoder, "patch": patch},
        "decoder": {**sizes.decoder, "patch": patch, "restore": True},
        "regularizer": norm.settings,
    }
    model = empty(spec, registry, f"imported {kind}")
    halves = {half: dict(model.get_submodule(half).state_dict()) for half in ("encoder", "decoder")}
    halves["decoder"] = {key: value for key, value in halves["decoder"].items() if not key.startswith("restore.")}
    expected, given = ldm_vae.autoencoder_to_published(**halves), means
    if in_diffusers:
        given, expected = diffusers_vae.from_published(given), diffusers_vae.from_published(expected)
    check_names(given, expected, kind=kind)
    load(model, both(*ldm_vae.autoencoder_from_published(means)) | norm.state())
    return model


def _patch_of(channels: int, latent_dim: int) -> int:
    """The side of the blocks of positions that make one of `channels`. Raises ArtifactError where none does."""
    if channels % latent_dim:
        raise ArtifactError(
            f"bn.running_mean holds {channels} channels, which are no blocks of positions of a latent of {latent_dim}"
        )
    return side_of(channels // latent_dim, "bn.running_mean")


def _without_norm(state: Mapping[str, Tensor]) -> State:
    """The autoencoder alone, in names that diffusers or latent diffusion have."""
    found: State = {}
    for key, value in state.items():
        for inside, outside in _INSIDE.items():
            key = outside + key.removeprefix(inside) if key.startswith(inside) else key
        if not key.startswith(_NORM):
            found[key] = value
    return found
