"""Statistics of the latents of the held-out split: their spectrum, their effective rank, their channels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Interval, Metric
from gaekit.api.metrics import (
    GroupedSums,
    Sums,
    effective_rank,
    implementation,
    low_share,
    moment_sums,
    power_sums,
    require_some,
    spectral_slope,
    standard_power,
    variances_of,
)


class LatentStatistic(Metric):
    """Base of the metrics that are made of sums over held-out latents: which sums, and which numbers of them."""

    needs = "latents"
    split = None

    def __init__(self, config: Any, *, image_size: int, classes: tuple[str, ...]):
        super().__init__(config, image_size=image_size, classes=classes)
        self._sums = GroupedSums(self.sums_of)
        self._shape: tuple[int, ...] = ()

    @abstractmethod
    def sums_of(self, latent_BDHW: Tensor) -> dict[str, Tensor]:
        """The sums of a batch."""

    @abstractmethod
    def numbers(self, sums: Sums) -> dict[str, float]:
        """The numbers, by name."""

    def update(self, latent_BDHW: Tensor, label_B: Tensor) -> None:
        """Take in latents of the held-out split. Raises GaekitError for values that are not finite."""
        if not torch.isfinite(latent_BDHW).all():
            raise GaekitError(f"metric '{self.name}': a latent holds values that are not finite")
        self._shape = tuple(latent_BDHW.shape[1:])
        self._sums.add(latent_BDHW.detach())

    def compute(self) -> dict[str, float]:
        """The numbers over all latents. Raises GaekitError without any."""
        require_some(self._sums.count, self, "held-out latents")
        return self.numbers(self._sums.without())

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of images; none for fewer than 32."""
        found = {name: self._interval(name) for name in self.numbers(self._sums.without())}
        return {name: interval for name, interval in found.items() if interval is not None}

    def protocol(self) -> dict[str, Any]:
        """Of how many latents of which shape."""
        return {
            "implementation": implementation(self),
            "latent": list(self._shape),
            "split": "validation",
            "n": self._sums.count,
        }

    def _interval(self, name: str) -> Interval | None:
        return self._sums.interval(lambda sums: self.numbers(sums)[name], "images")


class SpectrumConfig(ComponentConfig):
    """Settings of `spectrum`."""

    cutoff: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="what counts as a low frequency, as a share of the highest that every direction has"
    )


class Spectrum(LatentStatistic):
    """Where the power of latents lies: at low frequencies, as an image's does, or everywhere, as that of noise.

    The spectrum of "Improving the Diffusability of Autoencoders" (arXiv 2502.14831) and of "Spectrum Matching" (arXiv
    2603.14645), who find that latents with much power at high frequencies are hard for a denoiser: |F|^2 of each
    channel, brought to variance 1, averaged over images, channels and rings of frequencies one cycle wide.
    `spectrum_low` is the share of the variance at frequencies of at most `cutoff`, `spectrum_slope` the a of the
    1 / f^a that fits the rings: white noise has 0, photos about 2. Raises GaekitError for latents of fewer than 4 x 4.
    """

    name = "spectrum"
    Config = SpectrumConfig
    higher = ("spectrum",)
    config: SpectrumConfig

    def sums_of(self, latent_BDHW: Tensor) -> dict[str, Tensor]:
        """The power at each frequency."""
        return power_sums(latent_BDHW)

    def update(self, latent_BDHW: Tensor, label_B: Tensor) -> None:
        """Take in latents of the held-out split."""
        if min(latent_BDHW.shape[-2:]) < 4:
            height, width = latent_BDHW.shape[-2:]
            raise GaekitError(f"metric 'spectrum': a latent of {height} x {width} has no spectrum; at least 4 x 4 has")
        super().update(latent_BDHW, label_B)

    def numbers(self, sums: Sums) -> dict[str, float]:
        """{spectrum_low: in [0, 1], spectrum_slope}."""
        power = standard_power(sums)
        low = low_share(power, self.config.cutoff)
        return {f"{self.name}_low": low, f"{self.name}_slope": spectral_slope(power)}

    def protocol(self) -> dict[str, Any]:
        """How the spectrum was taken, and what white noise has."""
        side = self._shape[-1] if self._shape else 0
        white = low_share(torch.ones(side, side), self.config.cutoff) if side else None
        return super().protocol() | {
            "spectrum": "|F|^2, orthonormal FFT, channels of variance 1, mean over images and channels",
            "cutoff": self.config.cutoff,
            "cutoff_cycles": self.config.cutoff * (side // 2),
            "low_of_white_noise": white,
        }

    def _interval(self, name: str) -> Interval | None:
        least = -math.inf if name.endswith("slope") else 0.0
        return self._sums.interval(lambda sums: self.numbers(sums)[name], "images", least)


class EffectiveRank(LatentStatistic):
    """In how many directions channels vary: exp of the entropy of the shares of variance of their principal directions.

    After Roy and Vetterli (EUSIPCO 2007), who take singular values of a matrix: here it is the eigenvalues of the
    covariance of channels, over images and positions. All channels alike and uncorrelated have D, one direction has 1.
    """

    name = "effective_rank"
    Config = ComponentConfig
    higher = ("effective_rank",)

    def sums_of(self, latent_BDHW: Tensor) -> dict[str, Tensor]:
        """The first two moments of channels."""
        return moment_sums(latent_BDHW)

    def numbers(self, sums: Sums) -> dict[str, float]:
        """{effective_rank: 1 to D, effective_rank_share: of D}."""
        rank = effective_rank(variances_of(sums))
        return {self.name: rank, f"{self.name}_share": rank / len(sums["first"])}

    def protocol(self) -> dict[str, Any]:
        """Of which values."""
        return super().protocol() | {"of": "eigenvalues of the covariance of channels over images and positions"}


class ChannelStatisticsConfig(ComponentConfig):
    """Settings of `channel_statistics`."""

    dead: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="a channel is dead whose variance is below this share of the mean over channels"
    )


class ChannelStatistics(LatentStatistic):
    """How channels differ: the extremes of their means, deviations and kurtosis, and the share that says nothing.

    Over held-out images and positions. `channel_mean_max` is the largest |mean|, `channel_kurtosis_max` and
    `channel_kurtosis_mean` are of the excess over a Gaussian's, which has 0 (Fisher's, biased, as scipy gives it).
    """

    name = "channel_statistics"
    Config = ChannelStatisticsConfig
    config: ChannelStatisticsConfig

    def sums_of(self, latent_BDHW: Tensor) -> dict[str, Tensor]:
        """The sums of the first four powers of each channel (D,)."""
        maps = latent_BDHW.double()
        count = torch.tensor(float(maps[:, 0].numel()), dtype=torch.float64)
        return {"count": count} | {str(power): maps.pow(power).sum((0, 2, 3)) for power in range(1, 5)}

    def numbers(self, sums: Sums) -> dict[str, float]:
        """The extremes over channels."""
        mean, variance, kurtosis = _moments(sums)
        alive = variance > self.config.dead * variance.mean()
        std = variance.sqrt()
        excess = kurtosis[variance > 0] if bool((variance > 0).any()) else torch.zeros(1)
        return {
            "channel_std_min": float(std.min()),
            "channel_std_max": float(std.max()),
            "channel_mean_max": float(mean.abs().max()),
            "channel_kurtosis_mean": float(excess.mean()),
            "channel_kurtosis_max": float(excess.max()),
            "channels_dead": float((~alive).double().mean()),
        }

    def intervals(self) -> dict[str, Interval]:
        """None: extremes and counts of channels are no smooth functions of the images."""
        return {}

    def protocol(self) -> dict[str, Any]:
        """What counts as dead, and what each channel has."""
        found = super().protocol() | {"dead": f"variance below {self.config.dead:g} of the mean over channels"}
        if self._sums.count:
            mean, variance, kurtosis = _moments(self._sums.without())
            found |= {"mean": mean.tolist(), "std": variance.sqrt().tolist(), "excess_kurtosis": kurtosis.tolist()}
        return found


def _moments(sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, variance, excess kurtosis) of each channel (D,); the last is 0 where a channel is constant."""
    first, second, third, fourth = (sums[str(power)] / sums["count"] for power in range(1, 5))
    variance = second - first.square()
    variance = torch.where(variance > 1e-12 * second, variance, 0.0)
    central = fourth - 4 * first * third + 6 * first.square() * second - 3 * first.pow(4)
    varies = variance > 0
    return first, variance, torch.where(varies, central / torch.where(varies, variance, 1.0).square() - 3, 0.0)
