"""Interpolants between noise and data with a velocity: linear, gvp and vp (SiT, arXiv 2401.08740)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.process import EDGE, Process

DiffusionForm = Literal["sbdm", "sigma", "linear", "constant", "decreasing", "increasing-decreasing"]
Time = TypeVar("Time", float, Tensor)


def shift_time(t: Time, shift: float) -> Time:
    """t' = s t / (1 + (s - 1) t): s < 1 spends more of [0, 1] near the noise; 0 and 1 stay (SD3, arXiv 2403.03206)."""
    return shift * t / (shift * t + (1 - t))  # the same, but exactly 1 at t = 1


class Path(Process):
    """x_t = alpha_t * data + sigma_t * noise with the velocity v_t = alpha'_t * data + sigma'_t * noise."""

    offers: ClassVar[frozenset[str]] = frozenset({"velocity", "noise", "score", "data"})

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    def velocity(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The target of flow matching, dx_t / dt at fixed data and noise; t broadcasts against them."""
        return self.alpha_dot(t) * data + self.sigma_dot(t) * noise

    def drift_variance(self, t: Tensor) -> Tensor:
        """g of the forward process dx = (alpha'/alpha) x - g score: sigma (alpha' sigma - alpha sigma') / alpha."""
        return self.sigma(t) * self.wronskian(t) / self.alpha(t)

    def drift(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha' / alpha * x, drift_variance), so that the velocity is the first plus the second times the score."""
        return self.alpha_dot(t) / self.alpha(t) * x, self.drift_variance(t)

    def diffusion(self, t: Tensor, form: DiffusionForm, norm: float = 1.0) -> Tensor:
        """w(t) of the SDE dx = (v + w score) dt + sqrt(2 w) dW, which has the path's marginals for any w >= 0.

        `sbdm` is infinite at t = 0 of a path that starts as noise alone. Raises GaekitError for an unknown form.
        """
        match form:
            case "sbdm":
                return norm * self.drift_variance(t)
            case "sigma":
                return norm * self.sigma(t)
            case "linear":
                return norm * (1 - t)
            case "constant":
                return norm * torch.ones_like(t)
            case "decreasing":
                return 0.25 * (norm * torch.cos(math.pi * t) + 1) ** 2
            case "increasing-decreasing":
                return norm * torch.sin(math.pi * t) ** 2
        raise GaekitError(f"unknown diffusion form {form!r}; known: {', '.join(DiffusionForm.__args__)}")

    def wronskian(self, t: Tensor) -> Tensor:
        """alpha' sigma - alpha sigma', positive on all of (0, 1): what makes (x, v) solvable for (data, noise)."""
        return self.alpha_dot(t) * self.sigma(t) - self.alpha(t) * self.sigma_dot(t)

    def _ends(self, value: Tensor, x: Tensor, t: Tensor, given: str) -> tuple[Tensor, Tensor]:
        if given != "velocity":
            return super()._ends(value, x, t, given)
        determinant = self.wronskian(t)
        data = (self.sigma(t) * value - self.sigma_dot(t) * x) / determinant
        noise = (self.alpha_dot(t) * x - self.alpha(t) * value) / determinant
        return data, noise

    def _quantity(self, data: Tensor, noise: Tensor, t: Tensor, wanted: str) -> Tensor:
        return self.velocity(data, noise, t) if wanted == "velocity" else super()._quantity(data, noise, t, wanted)


class Linear(Path):
    """alpha = t, sigma = 1 - t: straight lines (rectified flow, arXiv 2209.03003)."""

    name = "linear"

    def alpha(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t

    def sigma(self, t: Tensor) -> Tensor:
        """What is left of it: 1 - t."""
        return 1 - t

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Constant, 1."""
        return torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Constant, -1."""
        return -torch.ones_like(t)


class Gvp(Path):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): a path of constant variance (generalised VP of SiT)."""

    name = "gvp"

    def alpha(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(t * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """cos(pi t / 2), as a sine so that it is 0 at t = 1 and not a rounding error."""
        return torch.sin((1 - t) * math.pi / 2)

    def alpha_dot(self, t: Tensor) -> Tensor:
        """pi / 2 cos(pi t / 2)."""
        return math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """-pi / 2 sin(pi t / 2)."""
        return -math.pi / 2 * self.alpha(t)


class Vp(Path):
    """Variance preserving with betas linear from 0.1 to 20 (score SDE, arXiv 2011.13456), run from noise to data.

    x_0 keeps alpha_0 = 0.0066 of the data. The velocity is infinite at t = 1.
    """

    name = "vp"
    starts_empty = False
    beta_min, beta_max = 0.1, 20.0

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-(1 - t)^2 (beta_max - beta_min) / 4 - (1 - t) beta_min / 2)."""
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha^2), by expm1 so that it keeps its digits near t = 1."""
        return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Alpha * beta / 2."""
        return self.alpha(t) * self.drift_variance(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """-alpha^2 beta / (2 sigma); -inf at t = 1."""
        return -(self.alpha(t) ** 2) * self.drift_variance(t) / self.sigma(t)

    def drift_variance(self, t: Tensor) -> Tensor:
        """Beta / 2, finite everywhere: the general formula would be 0 * inf at t = 1."""
        return (self.beta_min + (1 - t) * (self.beta_max - self.beta_min)) / 2

    def bounds(self, given: str) -> tuple[float, float]:
        """[0, 1 - 1e-3]: whatever is predicted, the velocity has no value at t = 1."""
        return 0.0, 1.0 - EDGE

    def _log_alpha(self, t: Tensor) -> Tensor:
        back = 1 - t
        return -(back**2) * (self.beta_max - self.beta_min) / 4 - back * self.beta_min / 2


PATHS: dict[str, type[Path]] = {cls.name: cls for cls in (Linear, Gvp, Vp)}
"""Every path by its name in recipes."""


def get_path(name: str) -> Path:
    """The path called `name`: linear, gvp or vp. Raises GaekitError for another name."""
    if name not in PATHS:
        raise GaekitError(f"unknown path {name!r}; known: {', '.join(PATHS)}")
    return PATHS[name]()
