"""Alignment in the bottleneck with a target in closed form: principal components of the teacher's features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gaekit.api import GaekitError
from gaekit.api.nn import rms_normalize
from gaekit_aligners.bottleneck import BottleneckAligner, BottleneckConfig


class LatentSvdConfig(BottleneckConfig):
    """Settings of `latent_svd`."""

    whiten: bool = Field(default=False, description="give every component the same variance, before the norm")


class LatentSvdAligner(BottleneckAligner):
    """The D principal components of the teacher's features as the latent's target: nothing is trained.

    Features are brought to RMS 1, centred, projected on the directions of largest variance over all images and
    positions, and brought to RMS 1 over the D channels, as `latent`'s target is. A direction's sign makes its largest
    entry positive.
    """

    name = "latent_svd"
    revision = 2
    Config = LatentSvdConfig
    fit: ClassVar[Literal["train", "closed"] | None] = "closed"

    config: LatentSvdConfig
    mean_F: Tensor
    basis_DF: Tensor
    variance_D: Tensor

    def __init__(self, config: Any, *, feature_dim: int, latent_dim: int, hidden_dim: int, grid: int):
        super().__init__(config, feature_dim=feature_dim, latent_dim=latent_dim, hidden_dim=hidden_dim, grid=grid)
        if latent_dim > feature_dim:
            raise GaekitError(
                f"aligner 'latent_svd': latent_dim {latent_dim} is more than the teacher's {feature_dim} channels; "
                "take a wider layer or teacher, or a narrower latent"
            )
        self.register_buffer("mean_F", torch.zeros(feature_dim))
        self.register_buffer("basis_DF", torch.zeros(latent_dim, feature_dim))
        self.register_buffer("variance_D", torch.ones(latent_dim))

    @torch.no_grad()
    def fit_closed(self, features: Iterable[Tensor]) -> None:
        """Find mean and directions from batches of feature_BFHW, in one pass, sums in float64.

        Raises GaekitError where the features vary in fewer directions than are asked for.
        """
        count = 0
        device = self.mean_F.device
        total = torch.zeros(self.feature_dim, dtype=torch.float64, device=device)
        outer = torch.zeros(self.feature_dim, self.feature_dim, dtype=torch.float64, device=device)
        for feature_BFHW in features:
            rows = rms_normalize(feature_BFHW.to(device).float(), dim=1).transpose(0, 1).flatten(1).double()
            count += rows.shape[1]
            total += rows.sum(1)
            outer += rows @ rows.T
        if count <= self.latent_dim:
            raise GaekitError(f"aligner 'latent_svd': {count} feature vectors cannot give {self.latent_dim} directions")
        mean = total / count
        self._solve(mean, outer / count - mean.outer(mean))

    def _solve(self, mean: Tensor, covariance: Tensor) -> None:
        values, vectors = torch.linalg.eigh(covariance)
        values, basis = values.flip(0)[: self.latent_dim], vectors.flip(1).T[: self.latent_dim]
        if not values[-1] > 1e-10 * values[0]:
            raise GaekitError(
                f"aligner 'latent_svd': the teacher's features vary in fewer than {self.latent_dim} directions; "
                "take a narrower latent, another layer or more images"
            )
        basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        self.mean_F.copy_(mean)
        self.basis_DF.copy_(basis)
        self.variance_D.copy_(values)

    @torch.no_grad()
    def target(self, feature_BFHW: Tensor) -> Tensor:
        """-> target_BDHW, float32, of RMS 1 over channels."""
        centred = rms_normalize(feature_BFHW.float(), dim=1) - self.mean_F[:, None, None]
        basis = self.basis_DF / self.variance_D.sqrt()[:, None] if self.config.whiten else self.basis_DF
        with torch.autocast(device_type=centred.device.type, enabled=False):
            return rms_normalize(torch.einsum("df,bfhw->bdhw", basis, centred), dim=1)
