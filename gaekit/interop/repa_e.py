"""The autoencoders that REPA-E tunes end to end with a denoiser (E2E-VAE, arXiv 2504.10483), and their statistics.

The network is latent diffusion's, in its names or in those of diffusers' AutoencoderKL. A denoiser's batch norm
standardises its latents; the release keeps that in a file beside the weights, a checkpoint of the training in the
denoiser that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.interop import diffusers_vae, ldm_vae
from gaekit.interop.diffusers_folder import settings_beside
from gaekit.interop.formats import Options
from gaekit.interop.reading import Source, State, read_checkpoint, read_tensors
from gaekit.interop.standardised_vae import BatchNorm, read_standardised
from gaekit.interop.statistics import statistics_of
from gaekit.plugins import Registry
from gaekit.store.models import Autoencoder, Statistics

KIND = "an autoencoder of REPA-E's"
BESIDE = "-latents-stats.pt"
"""How the release calls the statistics of `<name>.pt`: `<name>-latents-stats.pt`."""
MOMENTUM = 0.1
"""By which the batch norm of REPA-E's denoisers follows a batch."""
EPS = 1e-12
"""Nothing beside a variance: the release scales latents by one over its root, without an addend."""


def read_source(path: Path) -> tuple[Source, Statistics | None]:
    """The autoencoder in a file, and the statistics in the file or beside it, None where there are none.

    A checkpoint of a training has both: the autoencoder under `vae`, and a batch norm within its denoiser, averaged in
    `ema`. Raises ArtifactError.
    """
    source = read_checkpoint(path)
    content = read_tensors(path)
    if isinstance(held := content.get("vae"), Mapping):
        state = {key: value for key, value in held.items() if isinstance(value, Tensor)}
        return replace(source, state=state, weights="vae"), _of_training(content)
    beside = path.with_name(path.stem + BESIDE)
    return source, statistics_of(Options(stats=beside), _width(source.state)) if beside.is_file() else None


def read_e2e(source: Source, found: Statistics | None, options: Options, registry: Registry) -> Autoencoder:
    """The autoencoder, its latents standardised by --stats, else by what was `found` with it.

    Raises ArtifactError for what is missing, unexpected or not said.
    """
    settings_beside(source.path, {"_class_name": "AutoencoderKL", **diffusers_vae.NETWORK})
    statistics = statistics_of(options, _width(source.state)) if options.stats else found
    if statistics is None:
        raise ArtifactError(
            f"nothing says how its latents are standardised: give the release's <name>{BESIDE} with --stats, or import "
            "it without as ldm-vae"
        )
    if statistics.mean_D.ndim > 1:
        raise ArtifactError("its statistics are of each position; REPA-E's are of each channel")
    norm = BatchNorm(statistics.mean_D, statistics.std_D.square(), 0, EPS, MOMENTUM)
    return read_standardised(source.state, norm, options, registry, kind=KIND)


def _of_training(content: Mapping[str, Any]) -> Statistics | None:
    for name in ("ema", "model"):
        held = content.get(name)
        if not isinstance(held, Mapping):
            continue
        mean, variance = held.get("bn.running_mean"), held.get("bn.running_var")
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            return Statistics(mean.float(), variance.float().sqrt())
    return None


def _width(state: State) -> int:
    """Channels of the latent. Raises ArtifactError for a file of another kind."""
    published = diffusers_vae.to_published(state) if diffusers_vae.is_diffusers(state) else state
    return ldm_vae.sizes_of_published(published, resolution=1).latent_dim
