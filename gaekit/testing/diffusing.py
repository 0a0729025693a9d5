"""Promises of the parts of a diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from gaekit.api import Denoiser, Prediction, Sampler, TimeSampler
from gaekit.flow.ddpm import Ddpm
from gaekit.flow.field import Field
from gaekit.flow.path import get_path
from gaekit.flow.process import Process
from gaekit.guard import check_prediction
from gaekit.testing.promises import (
    BATCH,
    Make,
    check_gradient,
    check_module,
    check_tensor,
    disturb,
    draws,
    expect,
    numbers,
    own_randomness,
)

WORDS = frozenset({"velocity", "noise", "score", "data", "steps", "variance"})
"""What a sampler may need."""


def check_times(make: Make, sizes: Mapping[str, Any]) -> None:
    """Times in [0, 1] that depend on `draws` alone."""
    sampler: TimeSampler = make()
    with own_randomness():
        times = sampler.times(draws(batch=512))
    check_tensor(times, (512,), "t")
    inside = bool(((times >= 0) & (times <= 1)).all())
    expect(inside, "t lies in [0, 1]", f"{float(times.min()):g} to {float(times.max()):g}")
    expect(torch.equal(times, sampler.times(draws(batch=512))), "the same draws give the same t")


def check_denoiser(make: Make, sizes: Mapping[str, Any]) -> None:
    """A prediction of x's shape that depends on x, t and label, with taps and without classes."""
    denoiser: Denoiser = make()
    shape, classes = (BATCH, sizes["channels"], sizes["grid"], sizes["grid"]), sizes["classes"]
    t, label = torch.linspace(0, 1, BATCH), torch.arange(BATCH) % (classes + 1)
    known = ("velocity", "noise", "score", "data")
    expect(denoiser.predicts in known, f"`predicts` is one of {', '.join(known)}", denoiser.predicts)
    disturb(denoiser)
    denoiser.eval()
    x = numbers(*shape).requires_grad_(True)
    prediction: Prediction = denoiser(x, t, label, taps=("block.0",))
    check_prediction(denoiser, prediction, x, t, label, ("block.0",))
    out = prediction.out_BDHW
    check_tensor(out, shape, "the prediction")
    state = prediction.features["block.0"]
    expect(state.ndim == 3, "a hidden state is (B, tokens, width)", tuple(state.shape))
    check_gradient(out.square().mean(), {"x": x})
    with torch.no_grad():
        plain = denoiser(x, t, label).out_BDHW
        expect(torch.allclose(plain, out, atol=1e-5), "taps change nothing")
        expect(not torch.allclose(denoiser(x, 1 - t, label).out_BDHW, plain), "the prediction depends on t")
        null = torch.full_like(label, classes)
        expect(not torch.allclose(denoiser(x, t, null).out_BDHW, plain), "the prediction depends on the label")
        alone: Denoiser = make(classes=0)
        check_tensor(alone(x, t, torch.zeros_like(label)).out_BDHW, shape, "an unconditional prediction")
    check_module(make, lambda module: cast(Tensor, module(numbers(*shape), t, label).out_BDHW))


class _Gaussian:
    """The exact velocity of a linear path to data ~ N(mean, std^2)."""

    mean, std = 0.5, 0.2

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        t = t.reshape(-1, 1, 1, 1)
        spread = t**2 * self.std**2 + (1 - t) ** 2
        return Prediction(self.mean + (t * self.std**2 - (1 - t)) / spread * (x - t * self.mean))


class _NoiseOfGaussian(_Gaussian):
    """The exact noise in x on DDPM's chain, with a variance in the middle of its range."""

    process = Ddpm()

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        t = t.reshape(-1, 1, 1, 1)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        noise = sigma * (x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)
        return Prediction(noise, torch.zeros_like(x))


def check_sampler(make: Make, sizes: Mapping[str, Any]) -> None:
    """Samples of a known Gaussian, deterministic, with progress to the end."""
    sampler: Sampler = make()
    chain, count = "steps" in sampler.needs, 64
    process: Process = _NoiseOfGaussian.process if chain else get_path("linear")
    offers = process.offers | {"variance"} if chain else process.offers
    unknown = sampler.needs - WORDS
    expect(not unknown, f"`needs` are of {', '.join(sorted(WORDS))}", ", ".join(sorted(unknown)))
    expect(sampler.needs <= offers, f"this check offers {', '.join(sorted(offers))}; test other needs apart")
    exact, predicts = (_NoiseOfGaussian(), "noise") if chain else (_Gaussian(), "velocity")
    label, noise = torch.zeros(count, dtype=torch.long), numbers(count, 2, 4, 4)

    def sample(on_step: Callable[[int, int], None] | None = None) -> Tensor:
        field = Field(exact, process, None, label, 1, predicts)
        return sampler.sample(field, noise, draws=draws(batch=count), on_step=on_step)

    steps: list[tuple[int, int]] = []
    with own_randomness():
        latent = sample(lambda done, total: steps.append((done, total)))
    check_tensor(latent, tuple(noise.shape), "the latent")
    expect(bool(steps) and steps[-1][0] == steps[-1][1], "on_step is called to the last step")
    expect(torch.equal(latent, sample()), "the same noise and draws give the same latent")
    mean, std = latent.mean().item(), latent.std().item()
    near = abs(mean - _Gaussian.mean) < 0.1 and abs(std - _Gaussian.std) < 0.1
    expect(near, "samples of N(0.5, 0.2^2) have its mean and std", f"{mean:.3f} and {std:.3f}")
