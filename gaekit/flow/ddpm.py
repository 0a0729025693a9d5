"""Denoising diffusion in integer steps (DDPM, arXiv 2006.11239; learned variance and cosine betas, arXiv 2102.09672).

Step k of K counts from the data: k = 0 is the least noise. gaekit's t = 1 is data too, so step k is the middle of its
cell, t = 1 - (k + 1/2) / K; a denoiser that embeds k reads it off t by `step_of`, without rounding errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.guidance import DenoiserCall
from gaekit.flow.process import Process, expand
from gaekit.values import Loss, Losses, Prediction

STEPS = 1000
"""K of all published models."""

Betas = Literal["linear", "cosine"]
Numbers = tuple[float, ...]


def linear_betas(steps: int) -> list[float]:
    """From 1e-4 to 0.02 at 1000 steps, scaled so that another number of steps ends as noisy."""
    scale = STEPS / steps
    return [scale * (1e-4 + (0.02 - 1e-4) * k / max(1, steps - 1)) for k in range(steps)]


def cosine_betas(steps: int) -> list[float]:
    """1 - a(k + 1) / a(k), at most 0.999, with a(k) = cos^2(pi / 2 (k / K + 0.008) / 1.008)."""

    def kept(k: int) -> float:
        return math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - kept(k + 1) / kept(k), 0.999) for k in range(steps)]


def step_of(t: Tensor, steps: int = STEPS) -> Tensor:
    """The integer step that t in [0, 1] falls in, of t's shape; uniform t make uniform steps."""
    return ((1 - t) * steps).floor().clamp(0, steps - 1).long()


@dataclass(frozen=True)
class Chain:
    """A reverse chain over some steps, ascending: `alpha_bar` at each, and what follows for a transition down."""

    steps: tuple[int, ...]
    alpha_bar: Numbers

    @cached_property
    def alpha_bar_below(self) -> Numbers:
        """alpha_bar of the step below; 1 (the data) below the first."""
        return (1.0, *self.alpha_bar[:-1])

    @cached_property
    def beta(self) -> Numbers:
        """The variance that the forward process adds on the way up to each step."""
        return tuple(1 - a / below for a, below in zip(self.alpha_bar, self.alpha_bar_below, strict=True))

    @cached_property
    def log_posterior_variance(self) -> Numbers:
        """log of the variance of q(x_below | x, data); the first, which is 0, takes the second's."""
        triples = zip(self.beta, self.alpha_bar, self.alpha_bar_below, strict=True)
        variance = [beta * (1 - below) / (1 - a) for beta, a, below in triples]
        first = variance[1] if len(variance) > 1 else self.beta[0]
        return tuple(math.log(v) for v in (first, *variance[1:]))

    @cached_property
    def data_share(self) -> Numbers:
        """Factor of the data in the mean of q(x_below | x, data)."""
        triples = zip(self.beta, self.alpha_bar, self.alpha_bar_below, strict=True)
        return tuple(beta * math.sqrt(below) / (1 - a) for beta, a, below in triples)

    @cached_property
    def x_share(self) -> Numbers:
        """Factor of x in the mean of q(x_below | x, data)."""
        triples = zip(self.beta, self.alpha_bar, self.alpha_bar_below, strict=True)
        return tuple((1 - below) * math.sqrt(1 - beta) / (1 - a) for beta, a, below in triples)

    def log_variance_range(self) -> tuple[Numbers, Numbers]:
        """The ends of a learned log-variance: the posterior's (at -1) and log beta (at +1)."""
        return self.log_posterior_variance, tuple(math.log(beta) for beta in self.beta)


class Ddpm(Process):
    """The variance-preserving process of DDPM, known at K steps. It has no velocity."""

    name = "ddpm"
    starts_empty = False
    offers = Process.offers | {"steps"}

    def __init__(self, betas: Betas = "linear", steps: int = STEPS):
        if betas not in ("linear", "cosine"):
            raise GaekitError(f"unknown betas {betas!r}; known: linear, cosine")
        alpha_bar, product = [], 1.0
        for beta in (linear_betas if betas == "linear" else cosine_betas)(steps):
            product *= 1 - beta
            alpha_bar.append(product)
        self.steps, self.alpha_bar = steps, tuple(alpha_bar)
        self._tables: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(alpha_bar) of t's step."""
        return self._look_up("alpha", t)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar) of t's step."""
        return self._look_up("sigma", t)

    def bounds(self, given: str) -> tuple[float, float]:
        """[0, 1]: every step has both data and noise."""
        return 0.0, 1.0

    def time(self, step: int) -> float:
        """The t of an integer step."""
        return 1 - (step + 0.5) / self.steps

    def chain(self, count: int | None = None) -> Chain:
        """All steps, or `count` of them, equally spaced from the first to the last and rounded (arXiv 2102.09672).

        Raises GaekitError for a count that is not in [1, K].
        """
        count = self.steps if count is None else count
        if not 1 <= count <= self.steps:
            raise GaekitError(f"steps = {count} of a process of {self.steps}; choose 1 to {self.steps}")
        stride = (self.steps - 1) / max(1, count - 1)
        steps = tuple(round(i * stride) for i in range(count))
        return Chain(steps, tuple(self.alpha_bar[k] for k in steps))

    @cached_property
    def whole_chain(self) -> Chain:
        """The chain of all steps."""
        return self.chain()

    @cached_property
    def _numbers(self) -> dict[str, Numbers]:
        """What training looks up by step."""
        whole = self.whole_chain
        smallest, largest = whole.log_variance_range()
        return {
            "alpha": tuple(math.sqrt(a) for a in self.alpha_bar),
            "sigma": tuple(math.sqrt(1 - a) for a in self.alpha_bar),
            "smallest": smallest,
            "largest": largest,
            "data_share": whole.data_share,
            "x_share": whole.x_share,
        }

    def table(self, name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """A table (K,) on a device, copied there once: for a copy at every pass the host would wait.

        alpha, sigma; smallest, largest: the ends of a learned log-variance; data_share, x_share: see `Chain`.
        """
        key = name, device, dtype
        if key not in self._tables:
            self._tables[key] = torch.tensor(self._numbers[name], device=device, dtype=dtype)
        return self._tables[key]

    def _look_up(self, name: str, t: Tensor) -> Tensor:
        """The table's value at t's step, as float64 for a common time (see `Field`), float32 for one an image."""
        dtype = torch.float64 if t.ndim == 0 else torch.float32
        return self.table(name, t.device, dtype)[step_of(t, self.steps)]


def learned_log_variance(fraction: Tensor, smallest: float | Tensor, largest: float | Tensor) -> Tensor:
    """The log-variance that a raw network output in [-1, 1] stands for, between its two ends."""
    share = (fraction + 1) / 2
    return share * largest + (1 - share) * smallest


def ddpm_terms(
    denoiser: DenoiserCall, process: Ddpm, t_B: Tensor, latent_BDHW: Tensor, label_B: Tensor, noise_BDHW: Tensor
) -> dict[str, Tensor]:
    """The terms of each image, (B,), for a denoiser that predicts noise, in float32 also under autocast.

    `noise_mse`, and for one that learns its variance `variational_bound` in bits a dimension, through which no gradient
    reaches the noise prediction (the hybrid loss of arXiv 2102.09672, with the weight 1 of DiT).
    """
    data, noise = latent_BDHW.float(), noise_BDHW.float()
    x = process.interpolate(data, noise, t_B)
    prediction = denoiser(x, t_B, label_B)
    with torch.autocast(device_type=data.device.type, enabled=False):
        out = prediction.out_BDHW.float()
        terms = {"noise_mse": (out - noise).square().flatten(1).mean(1)}
        if prediction.variance_BDHW is not None:
            frozen = Prediction(out.detach(), prediction.variance_BDHW.float())
            terms["variational_bound"] = _bound(process, frozen, x, t_B, data)
    return terms


def ddpm_losses(
    denoiser: DenoiserCall, process: Ddpm, t_B: Tensor, latent_BDHW: Tensor, label_B: Tensor, noise_BDHW: Tensor
) -> Losses:
    """Means over the batch of `ddpm_terms`, each with weight 1."""
    terms = ddpm_terms(denoiser, process, t_B, latent_BDHW, label_B, noise_BDHW)
    return {name: Loss(value_B.mean()) for name, value_B in terms.items()}


def _bound(process: Ddpm, prediction: Prediction, x: Tensor, t_B: Tensor, data: Tensor) -> Tensor:
    """A term of the variational bound: KL of the posterior from the model's; at step 0, the data's likelihood."""
    assert prediction.variance_BDHW is not None
    step_B = step_of(t_B, process.steps)

    def at(name: str) -> Tensor:
        return expand(process.table(name, x.device)[step_B], x)

    smallest, largest = at("smallest"), at("largest")
    log_variance = learned_log_variance(prediction.variance_BDHW, smallest, largest)
    guess = process.convert(prediction.out_BDHW, x, t_B, "noise", "data")
    data_share, x_share = at("data_share"), at("x_share")
    mean = data_share * guess + x_share * x
    divergence = normal_kl(data_share * data + x_share * x, smallest, mean, log_variance)
    surprise = -discretized_log_likelihood(data, mean, log_variance / 2)
    bits_B = [term.flatten(1).mean(1) / math.log(2) for term in (divergence, surprise)]
    return torch.where(step_B == 0, bits_B[1], bits_B[0])


def normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, ...) || N(other_mean, ...)) of each number, in nats."""
    ratio = log_variance - other_log_variance
    return (ratio.exp() - 1 - ratio + (mean - other_mean).square() * torch.exp(-other_log_variance)) / 2


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the normal's mass on x +- 1/255, the first and last of 256 levels in [-1, 1] taking the tails.

    As in DDPM and DiT, which apply it to latents too; their tanh approximation of the normal's distribution function.
    """
    inverse = torch.exp(-log_std)
    upper, lower = (_normal_cdf(inverse * (x - mean + edge)) for edge in (1 / 255, -1 / 255))
    inside = (upper - lower).clamp(min=1e-12).log()
    first, last = upper.clamp(min=1e-12).log(), (1 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, first, torch.where(x > 0.999, last, inside))


def _normal_cdf(x: Tensor) -> Tensor:
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
