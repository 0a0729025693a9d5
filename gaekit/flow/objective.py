"""What a denoiser is trained on: the losses of SiT (arXiv 2401.08740) and the cosine term of arXiv 2501.01423."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gaekit.errors import GaekitError
from gaekit.flow.guidance import DenoiserCall
from gaekit.flow.path import Path
from gaekit.flow.process import EDGE, expand
from gaekit.values import Loss, Losses

Weighting = Literal["none", "velocity", "likelihood"]


def flow_matching(
    denoiser: DenoiserCall,
    path: Path,
    t_B: Tensor,
    latent_BDHW: Tensor,
    label_B: Tensor,
    noise_BDHW: Tensor,
    *,
    predicts: str,
    weighting: Weighting = "none",
    cosine: float = 0.0,
    clamp: float = EDGE,
) -> Losses:
    """The terms of one batch: `<predicts>_mse`, and `cosine` with that weight where it is not 0.

    Means over the batch of `flow_matching_terms`, which says more.
    """
    terms = flow_matching_terms(
        denoiser,
        path,
        t_B,
        latent_BDHW,
        label_B,
        noise_BDHW,
        predicts=predicts,
        weighting=weighting,
        cosine=cosine != 0,
        clamp=clamp,
    )
    return {name: Loss(value_B.mean(), cosine if name == "cosine" else 1.0) for name, value_B in terms.items()}


def flow_matching_terms(
    denoiser: DenoiserCall,
    path: Path,
    t_B: Tensor,
    latent_BDHW: Tensor,
    label_B: Tensor,
    noise_BDHW: Tensor,
    *,
    predicts: str,
    weighting: Weighting = "none",
    cosine: bool = False,
    clamp: float = EDGE,
) -> dict[str, Tensor]:
    """The terms of each image, (B,), in float32 also under autocast.

    MSE of the velocity, the noise, sigma * score against -noise (so that it is finite), or the data; cosine is the mean
    over positions of 1 - cos over channels. `weighting` (`loss_weight`) is for all but velocity. Times at which target
    or weight may be infinite are moved inwards, by at most 1e-3. In the weight of an error of the data sigma is at
    least `clamp`, which bounds it near t = 1 (JiT, arXiv 2511.13720, and RAEv2: 0.05). Raises GaekitError for an
    unknown setting.
    """
    start, end = path.bounds(predicts)
    t_B = t_B.float().clamp(start, end if predicts == "velocity" else 1 - EDGE)
    data, noise = latent_BDHW.float(), noise_BDHW.float()
    out = denoiser(path.interpolate(data, noise, t_B), t_B, label_B).out_BDHW
    t = expand(t_B, data)
    with torch.autocast(device_type=data.device.type, enabled=False):
        out = out.float() * path.sigma(t) if predicts == "score" else out.float()
        target = _target(path, data, noise, t, predicts)
        weight_B = loss_weight(path, t_B, predicts, weighting, clamp)
        terms = {f"{predicts}_mse": weight_B * (out - target).square().flatten(1).mean(1)}
        if cosine:
            terms["cosine"] = (1 - cosine_similarity(out, target, dim=1)).flatten(1).mean(1)
    return terms


def _target(path: Path, data: Tensor, noise: Tensor, t: Tensor, predicts: str) -> Tensor:
    match predicts:
        case "velocity":
            return path.velocity(data, noise, t)
        case "noise":
            return noise
        case "score":
            return -noise
        case "data":
            return data
    raise GaekitError(f"unknown prediction {predicts!r}; known: {', '.join(sorted(path.offers))}")


def loss_weight(path: Path, t: Tensor, predicts: str, weighting: Weighting, clamp: float = EDGE) -> Tensor:
    """The weight of the squared error at t, of t's shape; 1 for velocity.

    none: 1. velocity: (g / sigma)^2, which makes it the error of the velocity. likelihood: g / sigma^2; g is the path's
    drift variance. An error of the data counts as the error of the noise that it makes, (alpha / sigma)^2, with a sigma
    of at least `clamp`.
    """
    if predicts == "velocity" or weighting == "none":
        return torch.ones_like(t)
    if weighting not in ("velocity", "likelihood"):
        raise GaekitError(f"unknown weighting {weighting!r}; known: none, velocity, likelihood")
    w, alpha, sigma = path.wronskian(t), path.alpha(t), path.sigma(t)  # g = sigma w / alpha
    if predicts == "data":  # written out, since alpha / alpha has no value at t = 0
        sigma = sigma.clamp(min=clamp)
        return (w / sigma) ** 2 if weighting == "velocity" else w * alpha / sigma**3
    return (w / alpha) ** 2 if weighting == "velocity" else w / (alpha * sigma)


def drop_labels(label_B: Tensor, null: int, probability: float, uniform_B: Tensor) -> Tensor:
    """Labels, each replaced by the null label where its uniform number is below `probability` (arXiv 2207.12598)."""
    return torch.where(uniform_B < probability, torch.full_like(label_B, null), label_B)
