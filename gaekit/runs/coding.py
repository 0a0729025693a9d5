"""Images to latents and back, by an opened run's autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gaekit.errors import DataError, GaekitError
from gaekit.runs.pictures import Picture, Pictures, pictures_of, to_batches

if TYPE_CHECKING:
    from gaekit.runs.opened import OpenRun

BATCH = 16
"""Images at once."""


@torch.no_grad()
def encode(run: OpenRun, images: Picture | Sequence[Picture]) -> Tensor:
    """As `OpenRun.encode` says."""
    device = run.machine.device
    batches = to_batches(images, run.autoencoder.spec.image_size, BATCH)
    return torch.cat([run.autoencoder.encode(image.to(device))[1].mean_BDHW.float().cpu() for image in batches])


@torch.no_grad()
def decode(run: OpenRun, latents: Tensor) -> Pictures:
    """As `OpenRun.decode` says."""
    spec, given = run.autoencoder.spec, latents[None] if latents.ndim == 3 else latents
    wanted = (spec.latent_dim, spec.grid, spec.grid)
    if given.ndim != 4 or tuple(given.shape[1:]) != wanted or not len(given):
        raise GaekitError(
            f"latents of shape {tuple(latents.shape)}: this run's are {wanted}, or several of them (N, *{wanted})"
        )
    device = run.machine.device
    return pictures_of(run.autoencoder.decode(some.to(device, torch.float32)) for some in torch.split(given, BATCH))


@torch.no_grad()
def reconstruct(run: OpenRun, images: Picture | Sequence[Picture]) -> Pictures:
    """As `OpenRun.reconstruct` says."""
    device = run.machine.device
    batches = to_batches(images, run.autoencoder.spec.image_size, BATCH)
    return pictures_of(run.autoencoder.reconstruct(image.to(device)) for image in batches)


def interpolate(
    run: OpenRun, a: Picture | Tensor, b: Picture | Tensor, steps: int, along: Literal["arc", "line"]
) -> Pictures:
    """As `OpenRun.interpolate` says."""
    if steps < 2:
        raise GaekitError(f"steps: {steps}: both ends are shown, so 2 are the fewest")
    if along not in ("arc", "line"):
        raise GaekitError(f"along: {along!r}; known: arc, line")
    first, last = _latent(run, a), _latent(run, b)
    shares = [step / (steps - 1) for step in range(steps)]
    between = [arc(first, last, s) if along == "arc" else torch.lerp(first, last, s) for s in shares]
    return decode(run, torch.stack(between))


def _latent(run: OpenRun, given: Picture | Tensor) -> Tensor:
    """latent_DHW: as it is where it has that shape, else of the one image."""
    spec = run.autoencoder.spec
    if isinstance(given, Tensor) and given.is_floating_point():
        shape = (spec.latent_dim, spec.grid, spec.grid)
        if tuple(given.shape) in (shape, (1, *shape)):
            return given.detach().cpu().float().reshape(shape)
    found = encode(run, given)
    if len(found) != 1:
        raise DataError(f"an end of an interpolation is one image or one latent, not {len(found)}")
    return found[0]


def arc(a_DHW: Tensor, b_DHW: Tensor, share: float) -> Tensor:
    """slerp of the vectors of D channels at each position, their lengths mixed evenly; a straight line between vectors
    of one direction, of opposite ones, or of no length, between which no arc is the shortest."""
    length_a, length_b = a_DHW.norm(dim=0), b_DHW.norm(dim=0)
    cosine = ((a_DHW * b_DHW).sum(dim=0) / (length_a * length_b).clamp_min(1e-12)).clamp(-1, 1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    turned = (torch.sin((1 - share) * angle) / sine) * (a_DHW / length_a.clamp_min(1e-12))
    turned = turned + (torch.sin(share * angle) / sine) * (b_DHW / length_b.clamp_min(1e-12))
    curved = turned * torch.lerp(length_a, length_b, share)
    is_arc = (sine > 1e-4) & (torch.minimum(length_a, length_b) > 1e-6)
    return torch.where(is_arc, curved, torch.lerp(a_DHW, b_DHW, share))
