"""A denoiser seen as a field over (x, t): guided, converted to whatever a sampler asks for, and counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.guidance import DenoiserCall, Guidance
from gaekit.flow.process import QUANTITIES, Process
from gaekit.values import Prediction


@dataclass(frozen=True)
class Estimate:
    """One (guided) evaluation at (x, t), from which every quantity follows by the process without another."""

    prediction: Prediction
    x: Tensor
    t: Tensor
    process: Process
    predicts: str

    @property
    def velocity(self) -> Tensor:
        """dx / dt."""
        return self._as("velocity")

    @property
    def score(self) -> Tensor:
        """The gradient of log p_t at x."""
        return self._as("score")

    @property
    def noise(self) -> Tensor:
        """E[noise | x]."""
        return self._as("noise")

    @property
    def data(self) -> Tensor:
        """E[data | x]."""
        return self._as("data")

    @property
    def variance(self) -> Tensor:
        """The raw learned variance channels of the conditional branch. Raises GaekitError where there are none."""
        if self.prediction.variance_BDHW is None:
            raise GaekitError(
                "this denoiser learned no variance; choose a sampler or a variance setting that needs none"
            )
        return self.prediction.variance_BDHW.float()

    def _as(self, wanted: str) -> Tensor:
        return self.process.convert(self.prediction.out_BDHW, self.x, self.t, self.predicts, wanted)


class Field:
    """What samplers integrate: `velocity / score / noise / data` at (x, t), t a float or t_B.

    Each call evaluates the denoiser once, and its weak branch for just the rows that guidance reaches: not at scale 1,
    not outside the interval, not (classifier-free) where the label is the null label. Where several quantities are
    wanted at one place, `evaluate` gives all for the price of one. Arithmetic is float32 under the caller's autocast.
    Raises GaekitError if the process has no such quantity as `predicts`.

    `evaluations` counts images through a denoiser: an unguided step of B images adds B, a guided one 2 B.
    """

    def __init__(
        self,
        denoiser: DenoiserCall,
        process: Process,
        guidance: Guidance | None,
        label_B: Tensor,
        null_label: int,
        predicts: str,
    ):
        if predicts not in process.offers & QUANTITIES:
            raise GaekitError(
                f"a denoiser that predicts {predicts} does not go with process '{process.name}', "
                f"which knows {', '.join(sorted(process.offers & QUANTITIES))}"
            )
        self.denoiser, self.process, self.predicts = denoiser, process, predicts
        self.guidance = guidance or Guidance()
        self.label_B, self.null_label = label_B, null_label
        self.evaluations = 0
        self._guidable_B = self._find_guidable()

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """dx / dt at (x, t)."""
        return self.evaluate(x, t).velocity

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The gradient of log p_t at x; infinite at t = 1."""
        return self.evaluate(x, t).score

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The noise in x."""
        return self.evaluate(x, t).noise

    def data(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The data that x comes from."""
        return self.evaluate(x, t).data

    def evaluate(self, x: Tensor, t: float | Tensor) -> Estimate:
        """Every quantity at (x, t) from one evaluation; x (B, D, H, W), t a float or (B,)."""
        x = x.float()
        if isinstance(t, Tensor) and t.ndim:
            t_B = time = t.float()
        else:  # coefficients of a common time are taken in float64, on the host: no rounding, no copy to the device
            t = float(t)
            time = torch.tensor(t, dtype=torch.float64)
            t_B = torch.full((x.shape[0],), t, device=x.device)
        strong = self._call(self.denoiser, x, t_B, self.label_B)
        out = self._guide(strong.out_BDHW.float(), x, t_B, self._guided_rows(t))
        prediction = Prediction(out, strong.variance_BDHW, strong.features)
        return Estimate(prediction, x, time, self.process, self.predicts)

    def _guide(self, strong: Tensor, x: Tensor, t_B: Tensor, rows: Tensor | None) -> Tensor:
        if rows is None:
            return self.guidance.combine(strong, self._weak(x, t_B, self.label_B))
        if rows.numel() == 0:
            return strong
        weak = self._weak(x[rows], t_B[rows], self.label_B[rows])
        return strong.index_copy(0, rows, self.guidance.combine(strong[rows], weak))

    def _guided_rows(self, t: float | Tensor) -> Tensor | None:
        """Indices of the images that guidance reaches, None for all of them."""
        if not isinstance(t, Tensor):
            return self._guidable_B if self.guidance.covers(t) else torch.empty(0, dtype=torch.long)
        covered = torch.as_tensor(self.guidance.covers(t))
        if self._guidable_B is not None:
            covered = covered & torch.zeros_like(covered).index_fill(0, self._guidable_B, True)
        rows = covered.nonzero().squeeze(1)
        return None if rows.numel() == covered.numel() else rows

    def _find_guidable(self) -> Tensor | None:
        """Indices of the images that have something to be guided away from, None for all: read once, so that sampling
        does not wait for the device at every step."""
        if self.guidance.other is not None or self.guidance.scale == 1.0:
            return None
        if type(self.label_B) is not Tensor:  # a tensor that is only traced has no values: take every label for a class
            return None
        rows = (self.label_B != self.null_label).nonzero().squeeze(1)
        return None if rows.numel() == self.label_B.numel() else rows

    def _weak(self, x: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        if self.guidance.other is not None:
            return self._call(self.guidance.other, x, t_B, label_B).out_BDHW.float()
        return self._call(self.denoiser, x, t_B, torch.full_like(label_B, self.null_label)).out_BDHW.float()

    def _call(self, denoiser: DenoiserCall, x: Tensor, t_B: Tensor, label_B: Tensor) -> Prediction:
        self.evaluations += x.shape[0]
        return denoiser(x, t_B, label_B)
