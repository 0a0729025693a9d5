"""Samplers of denoising diffusion: the ancestral chain of DDPM, and DDIM."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from gaekit.api import ComponentConfig, Draws, GaekitError, Sampler
from gaekit.api.flow import Chain, Ddpm, Estimate, Field, learned_log_variance

ChainSteps = Annotated[int, Setting(ge=1, description="steps of the chain, spaced evenly over the process's")]


class ChainSampler(Sampler):
    """The loop down a chain of integer steps; a subclass adds one transition."""

    needs = frozenset({"data", "noise", "steps"})

    @torch.no_grad()
    def sample(
        self, field: Field, noise_BDHW: Tensor, *, draws: Draws, on_step: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Go down the chain to the data: one `draws.normal` of x's shape a step, the last one's unused.

        Raises GaekitError if the field's process has no integer steps.
        """
        if not isinstance(field.process, Ddpm):
            raise GaekitError(f"sampler '{self.name}' goes with process 'ddpm', not with path '{field.process.name}'")
        x, chain = noise_BDHW.float(), field.process.chain(self.config.steps)
        for done, index in enumerate(reversed(range(len(chain.steps))), start=1):
            noise = draws.normal(*x.shape[1:]).to(x)  # drawn at the end too, as published, so that draws line up
            estimate = field.evaluate(x, field.process.time(chain.steps[index]))
            x = self.step(estimate, chain, index, noise)
            if on_step is not None:
                on_step(done, len(chain.steps))
        return x

    @abstractmethod
    def step(self, estimate: Estimate, chain: Chain, index: int, noise: Tensor) -> Tensor:
        """x at the step below; at index 0 it is the data and takes no noise."""


class DdpmSampler(ChainSampler):
    """Ancestral sampling of DDPM with learned or fixed variance (arXiv 2006.11239, 2102.09672)."""

    name = "ddpm"

    class Config(ComponentConfig):
        """Length of the chain, and the variance of its transitions."""

        steps: ChainSteps = 250
        variance: Literal["learned", "posterior", "beta"] = Setting(
            default="learned", description="the network's, between the other two; the posterior's; or beta"
        )

    def step(self, estimate: Estimate, chain: Chain, index: int, noise: Tensor) -> Tensor:
        """Mean of q(x_below | x, data) at the predicted data, plus noise of the chosen variance."""
        mean = chain.data_share[index] * estimate.data + chain.x_share[index] * estimate.x
        if index == 0:
            return mean
        return mean + torch.exp(self._log_variance(estimate, chain, index) / 2) * noise

    def _log_variance(self, estimate: Estimate, chain: Chain, index: int) -> Tensor:
        smallest, largest = (table[index] for table in chain.log_variance_range())
        if self.config.variance == "learned":
            return learned_log_variance(estimate.variance, smallest, largest)
        return torch.full((), smallest if self.config.variance == "posterior" else largest, device=estimate.x.device)


class Ddim(ChainSampler):
    """DDIM (arXiv 2010.02502): deterministic at eta 0, DDPM with the posterior's variance at eta 1."""

    name = "ddim"

    class Config(ComponentConfig):
        """Length of the chain, and how much of its noise is fresh."""

        steps: ChainSteps = 50
        eta: float = Setting(default=0.0, ge=0, le=1, description="share of fresh noise: 0 none, 1 as in ddpm")

    def step(self, estimate: Estimate, chain: Chain, index: int, noise: Tensor) -> Tensor:
        """sqrt(a_below) data + sqrt(1 - a_below - s^2) noise_predicted + s noise."""
        below = chain.alpha_bar_below[index]
        fresh = self.config.eta * math.sqrt(chain.beta[index] * (1 - below) / (1 - chain.alpha_bar[index]))
        kept = math.sqrt(max(0.0, 1 - below - fresh**2))
        x: Tensor = math.sqrt(below) * estimate.data + kept * estimate.noise + fresh * noise
        return x
