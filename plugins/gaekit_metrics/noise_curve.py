"""What the decoder makes of latents with noise: the noise curve of GAE (arXiv 2603.10365, Fig. 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, Encoded, GaekitError, Interval, Metric, Perceptual, Slot, Teacher
from gaekit.api.metrics import (
    CAP_DB,
    FeatureSettings,
    GroupedMoments,
    frechet_distance,
    frechet_interval,
    implementation,
    in_blocks,
    mean_interval,
    noise_of,
    psnr,
    require_some,
    singular_warning,
    to_uint8,
)
from gaekit_metrics._teachers import FEATURES, TeacherFeatures, Which, named_after

Sigma = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _apart(sigmas: tuple[float, ...]) -> tuple[float, ...]:
    names = [f"{sigma:g}" for sigma in sigmas]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"numbers are named by the six digits of a sigma, and {', '.join(twice)} comes more than once")
    return sigmas


class NoiseCurveConfig(FeatureSettings):
    """Settings of `noise_curve`."""

    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1), AfterValidator(_apart)] = Field(
        default=(0.0, 0.1, 0.2, 0.5, 1.0),
        description="strengths of the noise, in units of the root mean square of the training split's latents",
    )
    perceptual: Annotated[ComponentConfig | None, Slot("perceptual")] = Field(
        default=None, description="a distance to the image that is measured too, such as lpips; null: none"
    )
    teacher: Annotated[ComponentConfig | None, Slot("teacher")] = Field(
        default=None, description="the network in whose features Fréchet distances are measured; null: none"
    )
    grid: PositiveInt = Field(default=7, description="side of the teacher's feature grid, averaged over")
    features: Which = Field(default="mean", description=FEATURES)
    seed: NonNegativeInt = Field(default=0, description="of the noise")


class NoiseCurve(Metric):
    """How much of an image the decoder gives back from its latent with noise: the noise curve (GAE, arXiv 2603.10365,
    Fig. 4).

    The decoder sees z + sigma * u * eps: z the latent's mean, eps standard normal, the same for every sigma, and u the
    root mean square over all numbers of the training split's latents. Latents that a norm holds at unit RMS have u = 1,
    and sigma is the paper's. For each sigma: `noise_curve_psnr@<sigma>` against the image, dB, and with `perceptual`
    its distance, `noise_curve_<perceptual>@<sigma>`, means over images; with `teacher`, for every sigma above 0,
    `noise_curve_frechet_<teacher>@<sigma>`, the distance of what is decoded under noise to what is decoded of the same
    latents without.
    """

    name = "noise_curve"
    Config = NoiseCurveConfig
    needs = "latents"
    higher = ("noise_curve_psnr",)
    config: NoiseCurveConfig

    def __init__(
        self,
        config: NoiseCurveConfig,
        *,
        image_size: int,
        classes: tuple[str, ...],
        perceptual: Callable[..., Perceptual] | None,
        teacher: Callable[..., Teacher] | None,
    ):
        super().__init__(config, image_size=image_size, classes=classes)
        self.perceptual = None if perceptual is None else perceptual(image_size=image_size).eval().requires_grad_(False)
        self.extractor: TeacherFeatures | None = None
        if teacher is not None and config.teacher is not None:
            owner = f"metric '{self.name}'"
            self.extractor = TeacherFeatures(teacher(grid=config.grid), config.teacher, config.features, owner)
        self._squares, self._numbers = 0.0, 0
        self._columns: dict[str, list[float]] = {name: [] for name in self._means}
        self._moments: dict[float, GroupedMoments] = {}
        if self.extractor is not None:
            noisy = [sigma for sigma in config.sigmas if sigma > 0]
            self._moments = {sigma: GroupedMoments(self.extractor.width) for sigma in [0.0, *noisy]}
        self._distances: dict[str, tuple[float, Interval | None]] = {}

    def reference(self, latent_BDHW: Tensor, label_B: Tensor) -> None:
        """Take in latents of the training split, for the unit of the noise."""
        self._squares += float(latent_BDHW.double().square().sum())
        self._numbers += latent_BDHW.numel()

    def reference_state(self) -> dict[str, Tensor]:
        """The sum of squares, and of how many numbers."""
        return {"squares": torch.tensor(self._squares, dtype=torch.float64), "numbers": torch.tensor(self._numbers)}

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `reference_state`."""
        self._squares, self._numbers = float(state["squares"]), int(state["numbers"])

    @property
    def unit(self) -> float:
        """The root mean square of the training latents, to six digits: how a sum is cut into batches decides others.
        Raises GaekitError without latents, and where these are not finite."""
        require_some(self._numbers, self, "training latents")
        if not math.isfinite(self._squares):
            raise GaekitError(f"metric '{self.name}': a training latent holds values that are not finite")
        return float(f"{math.sqrt(self._squares / self._numbers):.6g}")

    @torch.no_grad()
    def extract_latent(self, seen: Encoded) -> Tensor:
        """A row for each image: its PSNR at each sigma, its perceptual distances, features of what is decoded."""
        latent, unit = seen.latent_BDHW, self.unit
        noise = noise_of(seen.index_B, latent.shape[1:], self.config.seed, latent.device)
        real, columns = to_uint8(seen.image_B3RR, self), []
        images = {s: seen.decode(latent + s * unit * noise) for s in sorted({*self.config.sigmas, *self._moments})}
        for sigma in self.config.sigmas:
            columns.append(torch.tensor(psnr(real, to_uint8(images[sigma], self)), dtype=torch.float64)[:, None])
        if self.perceptual is not None:
            network = self.perceptual.to(latent.device)
            for sigma in self.config.sigmas:
                both = torch.cat([seen.image_B3RR, images[sigma]], 1)
                distance_B = in_blocks(lambda pair: network(pair[:, :3], pair[:, 3:]), both)
                columns.append(distance_B.double().cpu()[:, None])
        if self.extractor is not None:
            columns += [
                self.extractor(to_uint8(images[sigma], self)).feature_BF.double().cpu() for sigma in self._moments
            ]
        return torch.cat(columns, 1)

    def update(self, row_BN: Tensor, label_B: Tensor) -> None:
        """Take in such rows. Raises GaekitError where a distance or a feature is not finite."""
        if not torch.isfinite(row_BN).all():
            raise GaekitError(f"metric '{self.name}': a distance or a feature is not finite")
        count = len(self._columns)
        for values, own in zip(self._columns.values(), row_BN[:, :count].T.tolist(), strict=True):
            values += own
        parts = torch.split(row_BN[:, count:], self.extractor.width, 1) if self.extractor is not None else ()
        for moments, feature_BF in zip(self._moments.values(), parts, strict=True):
            moments.add(feature_BF)

    def compute(self) -> dict[str, float]:
        """The numbers, by name and sigma. Raises GaekitError for fewer images than they take."""
        require_some(len(next(iter(self._columns.values()))), self, "held-out latents")
        numbers = {self._named(name): math.fsum(values) / len(values) for name, values in self._columns.items()}
        if self._moments:
            self._compare()
        return numbers | {name: value for name, (value, _) in self._distances.items()}

    def intervals(self) -> dict[str, Interval]:
        """Of means Student's t over images; of distances the jackknife over pairs of what is decoded with noise and
        without."""
        found = {self._named(name): mean_interval(values) for name, values in self._columns.items()}
        found |= {name: interval for name, (_, interval) in self._distances.items()}
        return {name: interval for name, interval in found.items() if interval is not None}

    def per_image(self) -> dict[str, Tensor]:
        """Every image's own PSNR and perceptual distance."""
        return {self._named(n): torch.tensor(values, dtype=torch.float64) for n, values in self._columns.items()}

    def protocol(self) -> dict[str, Any]:
        """The noise and its unit, and of which features the distances are."""
        n = len(next(iter(self._columns.values())))
        protocol: dict[str, Any] = {
            "implementation": implementation(self),
            "decoded": "z + sigma * unit * eps, eps standard normal, the same for every sigma",
            "unit": self.unit if self._numbers else None,
            "unit_is": "root mean square over all numbers of the training split's latents",
            "sigmas": list(self.config.sigmas),
            "seed": self.config.seed,
            "cap_db": CAP_DB,
            "pixels": "uint8, floor(127.5 x + 128)",
            "split": "validation",
            "n": n,
        }
        if self.perceptual is not None and self.config.perceptual is not None:
            protocol["perceptual"] = self.config.perceptual.model_dump(mode="json")
            protocol["perceptual_identity"] = type(self.perceptual).external(self.config.perceptual)
        if self.extractor is not None:
            protocol |= self.extractor.protocol() | singular_warning(n, self.extractor.width)
        return protocol

    @property
    def _means(self) -> list[str]:
        """What is a mean over images, in the order of the rows' columns."""
        kinds = ["psnr"] + ([] if self.config.perceptual is None else [self.config.perceptual.use])
        return [f"{kind}@{sigma:g}" for kind in kinds for sigma in self.config.sigmas]

    def _named(self, name: str) -> str:
        kind, _, sigma = name.partition("@")
        suffix = f"_{self.config.suffix}" if self.config.suffix else ""
        return f"{self.name}_{kind}{suffix}@{sigma}"

    def _compare(self) -> None:
        """The distances of what is decoded under noise to what is decoded without."""
        assert self.config.teacher is not None
        clean = self._moments[0.0]
        if clean.count < 2:
            raise GaekitError(f"metric '{self.name}' was given {clean.count} image; a covariance needs at least 2")
        for sigma, moments in self._moments.items():
            if sigma > 0:
                value = frechet_distance(clean.mean, clean.covariance, moments.mean, moments.covariance)
                interval = frechet_interval(value, clean, moments, "pairs of images")
                self._distances[self._named(f"frechet_{named_after(self.config)}@{sigma:g}")] = value, interval
