"""What the metrics on features of images share: Inception and its settings, subsets of both sides."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from gaekit.api import Asset, GaekitError, Metric, weights
from gaekit.api.metrics import Extractor, FeatureMetric, FeatureSettings, ReferenceSettings, Subset
from gaekit_metrics.inception import ASSET, EXPECTED, Inception


class PairedMetric(FeatureMetric):
    """Base of the metrics on the features of images and of their reconstructions; it stands before that of the
    network."""

    needs = "pairs"

    def update(self, real_BF: Tensor, fake_BF: Tensor) -> None:
        """Take in features of a batch of images and of their reconstructions."""
        self._take_real(real_BF)
        self._take_fake(fake_BF)

    def _reference_facts(self) -> dict[str, Any]:
        return {"kind": "the images that were reconstructed", "n": self._n_real}


class InceptionSettings(FeatureSettings):
    """What every metric on Inception's features can be told."""

    weights: str = Field(default=weights.HUB, description=weights.DESCRIPTION)
    seed: NonNegativeInt = Field(default=2020, description="of shuffles, of drawn subsets and of `weights: random`")


class SubsetSettings(ReferenceSettings):
    """What the metrics that keep single images' features can be told."""

    limit: PositiveInt = Field(default=50_000, description="generated images judged, at most, drawn by the seed")
    reference_limit: PositiveInt = Field(default=10_000, description="real images judged, at most, drawn by the seed")

    def collectors(self, seed: int) -> tuple[Subset, Subset]:
        """Those of the real and of the generated images."""
        return Subset(self.reference_limit, seed), Subset(self.limit, seed)


def double_device(device: torch.device) -> torch.device:
    """Where float64 is computed of what was on a device: there if that is CUDA, other accelerators know none."""
    return device if device.type == "cuda" else torch.device("cpu")


def on_one_device(real: Subset, fake: Subset) -> tuple[Tensor, Tensor]:
    """The rows of both, where float64 is computed of them."""
    device = double_device(fake.device)
    return real.rows().to(device), fake.rows().to(device)


def require_two(metric: Metric, real: Subset, fake: Subset) -> None:
    """Raises GaekitError for fewer than two images on a side, which are no distribution."""
    for side, what in ((real, "real"), (fake, "generated")):
        if len(side) < 2:
            raise GaekitError(
                f"metric '{metric.name}' was given {len(side)} {what} image(s); a distribution needs at least 2, and "
                "some thousands to tell models apart"
            )


class InceptionMetric(FeatureMetric):
    """Base of the metrics on Inception's features. `extractor` stands in for the network: any `Extractor`."""

    higher = ("inception_score", "precision", "recall")

    def __init__(self, config: Any, *, image_size: int, classes: tuple[str, ...], extractor: Extractor | None = None):
        owner = f"metric '{self.name}'"
        network = extractor or Inception(config.weights, config.seed, owner, spatial=self.spatial(config))
        super().__init__(config, image_size=image_size, classes=classes, extractor=network)

    @classmethod
    def spatial(cls, config: Any) -> bool:
        """Whether the network's spatial features are wanted, too."""
        return False

    @classmethod
    def external(cls, config: Any) -> str:
        """Identity of the weights and of the reference. Raises GaekitError where one is a file that is absent."""
        network, reference = weights.identity(config.weights, ASSET, config.seed, EXPECTED), super().external(config)
        return f"weights {network}" + (f"; {reference}" if reference else "")

    @classmethod
    def assets(cls, config: Any) -> tuple[Asset, ...]:
        """The network's weights, and the reference where it is a file or folder."""
        return weights.assets(config.weights, ASSET, EXPECTED) + super().assets(config)
