"""A denoiser that knows the truth: data N(mean, std^2), for which every path's field and flow are closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from gaekit.flow.field import Field
from gaekit.flow.guidance import Guidance
from gaekit.flow.path import Path, get_path
from gaekit.flow.process import Process, expand
from gaekit.values import Prediction


class GaussianDenoiser:
    """E[. | x] at (x, t) for data N(mean, std^2), independent over all numbers of a latent."""

    def __init__(self, path: Process, predicts: str = "velocity", mean: float = 0.7, std: float = 0.5):
        self.path, self.predicts, self.mean, self.std = path, predicts, mean, std

    def __call__(self, x: Tensor, t_B: Tensor, label_B: Tensor) -> Prediction:
        return Prediction(self.truth(x, t_B, self.predicts))

    def truth(self, x: Tensor, t_B: Tensor, quantity: str) -> Tensor:
        t = expand(t_B, x)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        score = -(x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)
        data = self.mean - alpha * self.std**2 * score
        noise = -sigma * score
        if quantity == "velocity":
            assert isinstance(self.path, Path)
            return self.path.velocity(data, noise, t)
        return {"score": score, "noise": noise, "data": data}[quantity]

    def flow(self, x: Tensor, start: float = 0.0) -> Tensor:
        """Where the probability flow takes x from t = `start` to t = 1."""
        t = torch.tensor(start, dtype=torch.float64)
        alpha, sigma = float(self.path.alpha(t)), float(self.path.sigma(t))
        end: Tensor = self.mean + self.std * (x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2) ** 0.5
        return end


def gaussian_field(path: str = "linear", predicts: str = "velocity", batch: int = 4, **keywords: float) -> Field:
    """An unguided field over the truth; every label is a class."""
    process = get_path(path)
    denoiser = GaussianDenoiser(process, predicts, **keywords)
    return Field(denoiser, process, Guidance(), torch.zeros(batch, dtype=torch.long), 10, predicts)
