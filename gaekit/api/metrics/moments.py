"""Means and covariances of features, and the Fréchet distance between two of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BLOCK = 1024
"""Rows that are taken in at once: a product of few rows costs as much as one of many, by the width of the features."""


class Moments:
    """Count, mean and covariance of rows in float64, streamed: blocks are merged by their own means and scatters
    (Chan, Golub and LeVeque 1979), which loses no digits where the mean is large beside the spread.

    Blocks are of BLOCK rows however batches are cut, so that the numbers do not depend on it. They are computed where
    the first rows lie, if that is CUDA, else on the CPU.
    """

    def __init__(self, width: int):
        self.width, self._taken = width, 0
        self._mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)
        self._waiting: list[Tensor] = []

    @property
    def count(self) -> int:
        """How many rows there were."""
        return self._taken + sum(map(len, self._waiting))

    def add(self, row_BN: Tensor) -> None:
        """Take in a batch of rows."""
        if not self.count and row_BN.is_cuda:
            self._mean, self._scatter = self._mean.to(row_BN.device), self._scatter.to(row_BN.device)
        self._waiting.append(row_BN.to(self._mean.device, torch.float64))
        while sum(map(len, self._waiting)) >= BLOCK:
            rows = torch.cat(self._waiting)
            self._waiting = [rows[BLOCK:]]
            self._take(rows[:BLOCK])

    @property
    def mean(self) -> Tensor:
        """The mean (N,), on the CPU."""
        return self._all()._mean.cpu()

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (N, N) (divided by n - 1), as in the usual FID; on the CPU."""
        return (self._all()._scatter / (self.count - 1)).cpu()

    def state(self) -> dict[str, Tensor]:
        """Count, mean and scatter, exactly."""
        whole = self._all()
        return {"count": torch.tensor(whole._taken), "mean": whole._mean.cpu(), "scatter": whole._scatter.cpu()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`; nothing is added hereafter."""
        self._taken, self._mean, self._scatter = int(state["count"]), state["mean"], state["scatter"]
        self._waiting = []

    def _all(self) -> Moments:
        """The same with the rows that wait for a whole block."""
        rows = torch.cat(self._waiting) if self._waiting else self._mean[:0]
        if not len(rows):
            return self
        whole = Moments(self.width)
        whole._taken, whole._mean, whole._scatter = self._taken, self._mean.clone(), self._scatter.clone()
        whole._take(rows)
        return whole

    def _take(self, row_BN: Tensor) -> None:
        mean = row_BN.mean(0)
        centred, shift = row_BN - mean, mean - self._mean
        total = self._taken + len(row_BN)
        self._scatter += centred.T @ centred + torch.outer(shift, shift) * (self._taken * len(row_BN) / total)
        self._mean += shift * (len(row_BN) / total)
        self._taken = total


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """|m - n|^2 + tr A + tr B - 2 tr (A B)^(1/2), float64 (Dowson and Landau 1982).

    With A = S S^T and B = R R^T the eigenvalues of A B are the squared singular values of S^T R. These are real and not
    negative, and stable where the covariances are singular, which an iterative square root of A B is not.
    """
    root = torch.linalg.svdvals(_factor(covariance).T @ _factor(other_covariance)).sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * root
    return max(0.0, float(distance))  # rounding may leave -1e-13 between equal sets


def _factor(covariance: Tensor) -> Tensor:
    """S with S S^T = A: Cholesky's where A is clearly not singular, which takes a tenth of the time of the other, the
    square root."""
    tiny = len(covariance) * torch.finfo(covariance.dtype).eps
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed and lower.diagonal().min().square() > tiny * covariance.trace():
        return lower
    value, vector = torch.linalg.eigh(covariance)
    noise = value.max() * tiny  # the rounding of a zero, whose root would count
    root: Tensor = (vector * torch.where(value > noise, value, 0.0).sqrt()) @ vector.T
    return root


def singular_warning(count: int, width: int) -> dict[str, str]:
    """{"warning": why} where `count` images leave a covariance of `width` dimensions singular, else nothing."""
    if count > width:
        return {}
    return {
        "warning": f"a side has no more images than the features have dimensions ({width}): its covariance is "
        f"singular, and the distance mostly says how few they are; compare only equal counts"
    }
