"""The best denoiser of data that is noise itself: what one must beat to have learnt something."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaekit.flow.process import Process, expand
from gaekit.values import Prediction


@dataclass(frozen=True)
class GaussianDenoiser:
    """E[data | x_t] for data whose positions are independent and normal, with a mean and a variance a channel (D,).

    data = mean + alpha variance / (alpha^2 variance + sigma^2) (x_t - alpha mean), converted to what `predicts` says.
    No denoiser that knows the channels' means and variances alone has a smaller squared error, and what is sampled by
    it is noise of these. `learned_variance`: it gives variance channels too, of which it knows nothing: 0.
    """

    process: Process
    predicts: str
    mean_D: Tensor
    variance_D: Tensor
    learned_variance: bool = False

    def __call__(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor) -> Prediction:
        """As a `DenoiserCall`; in float32, whatever the label."""
        with torch.autocast(device_type=x_BDHW.device.type, enabled=False):
            x = x_BDHW.float()
            t = expand(t_B, x)
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
            mean, variance = (own.to(x)[:, None, None] for own in (self.mean_D, self.variance_D))
            gain = alpha * variance / (alpha**2 * variance + sigma**2)
            data = mean + gain * (x - alpha * mean)
            out = self.process.convert(data, x, t_B, "data", self.predicts)
        return Prediction(out, torch.zeros_like(out) if self.learned_variance else None)
