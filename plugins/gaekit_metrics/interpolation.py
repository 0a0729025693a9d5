"""What lies between latents: distances of decoded points between pairs to real images, and the interpolated FID."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from gaekit.api import Asset, ComponentConfig, Encoded, GaekitError, Interval, Metric, Slot, Teacher, weights
from gaekit.api.metrics import (
    Extractor,
    Features,
    FeatureSettings,
    GroupedMoments,
    Subset,
    frechet_distance,
    frechet_interval,
    implementation,
    random_of,
    singular_warning,
    to_uint8,
)
from gaekit_metrics._between import Way, between
from gaekit_metrics._teachers import FEATURES, TeacherFeatures, Which, named_after
from gaekit_metrics.inception import ASSET, EXPECTED, Inception

Share = Annotated[float, Field(ge=0, le=1)]


class BetweenConfig(FeatureSettings):
    """Settings of metrics of points between latents."""

    share: Share = Field(default=0.5, description="how far from the image's latent towards the other: 0.5 is midway")
    limit: PositiveInt | None = Field(
        default=50_000, description="latents that an image's other one is among, drawn by `seed`; null: all"
    )
    seed: NonNegativeInt = Field(default=0, description="of which latents, and of each image's other one")


class BetweenLatents(Metric):
    """Base of the metrics that decode a point between each held-out image's latent and another, and compare what they
    decode with the images, in the features of `extractor`. Which other, a subclass says.

    Every process holds the latents that the other ones are among, at most `limit`.
    """

    needs = "latents"
    config: Any

    def __init__(self, config: Any, *, image_size: int, classes: tuple[str, ...], extractor: Extractor):
        super().__init__(config, image_size=image_size, classes=classes)
        self.extractor, self.way = extractor, config.interpolation
        self._drawn = Subset(config.limit or 1 << 62, config.seed)
        self._shape: tuple[int, ...] = ()
        self._seen = 0
        self._others_ND: Tensor | None = None
        self._real, self._between = GroupedMoments(extractor.width), GroupedMoments(extractor.width)
        self._interval: Interval | None = None

    @property
    def fewest(self) -> int:
        """So many that a covariance of the features is of full rank."""
        return self.extractor.width + 1

    @abstractmethod
    def others(self, own_BD: Tensor, index_B: Tensor, others_ND: Tensor) -> Tensor:
        """For each image, of its latent as a vector and its place, which of the others it goes to (B,), on the CPU."""

    def reference(self, latent_BDHW: Tensor, label_B: Tensor) -> None:
        """Take in latents that may be an image's other one. Raises GaekitError for values that are not finite."""
        if not torch.isfinite(latent_BDHW).all():
            raise GaekitError(f"metric '{self.name}': a latent holds values that are not finite")
        chosen = list(self._drawn.choose(len(latent_BDHW)))
        rows = latent_BDHW[chosen].detach().flatten(1)
        self._drawn.add(Features.parted(rows, rows.shape[1], 0))
        self._seen += len(latent_BDHW)

    def reference_state(self) -> dict[str, Tensor]:
        """The latents, and of how many they were drawn."""
        return {"others": self._others, "seen": torch.tensor(self._seen)}

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `reference_state`."""
        self._others_ND, self._seen = state["others"], int(state["seen"])

    @torch.no_grad()
    def extract_latent(self, seen: Encoded) -> Tensor:
        """A row for each image: its features, and those of what lies between it and its other one."""
        latent, others_ND = seen.latent_BDHW, self._others
        place_B = self.others(latent.flatten(1), seen.index_B, others_ND)
        other = others_ND[place_B].to(latent).view_as(latent)
        decoded = seen.decode(between(latent, other, self.config.share, self.way))
        return torch.cat([self._features(seen.image_B3RR), self._features(decoded)], 1)

    def update(self, row_BN: Tensor, label_B: Tensor) -> None:
        """Take in such rows. Raises GaekitError for features that are not finite."""
        if not torch.isfinite(row_BN).all():
            raise GaekitError(f"metric '{self.name}': the network gave features that are not finite")
        real, made = torch.split(row_BN, self.extractor.width, 1)
        self._real.add(real)
        self._between.add(made)

    def compute(self) -> dict[str, float]:
        """{its name: distance >= 0}. Raises GaekitError for fewer than two images."""
        real, made = self._real, self._between
        if real.count < 2:
            raise GaekitError(f"metric '{self.name}' was given {real.count} image(s); a covariance needs at least 2")
        value = frechet_distance(real.mean, real.covariance, made.mean, made.covariance)
        self._interval = frechet_interval(value, real, made, "pairs of images")
        return {self._named: value}

    def intervals(self) -> dict[str, Interval]:
        """By the jackknife over groups of pairs of an image and what lies beside it; none for fewer than 32."""
        return {} if self._interval is None else {self._named: self._interval}

    def protocol(self) -> dict[str, Any]:
        """How points were chosen, and of how many."""
        return {
            "implementation": implementation(self),
            "interpolation": self.way,
            "share": self.config.share,
            "among": {"split": self.split, "n": self._seen, "limit": self.config.limit, "seed": self.config.seed},
            "split": "validation",
            "pixels": "uint8, floor(127.5 x + 128)",
            "n": self._real.count,
            **self._network_facts(),
        } | singular_warning(self._real.count, self.extractor.width)

    @property
    def _named(self) -> str:
        teacher = "" if self.config.teacher is None else f"_{named_after(self.config)}"
        return f"{self.name}{teacher}" + (f"_{self.config.suffix}" if self.config.suffix else "")

    @property
    def _others(self) -> Tensor:
        if self._others_ND is None:
            if len(self._drawn) < 2:
                raise GaekitError(f"metric '{self.name}' was given {len(self._drawn)} latent(s); it needs 2 at least")
            self._others_ND = self._drawn.rows()
        return self._others_ND

    def _features(self, image_B3RR: Tensor) -> Tensor:
        return self.extractor(to_uint8(image_B3RR, self)).feature_BF.double()

    def _network_facts(self) -> dict[str, Any]:
        facts = self.extractor.protocol()
        return {"extractor": facts} if self.config.teacher is None else facts


class InterpolationConfig(BetweenConfig):
    """Settings of `interpolation`."""

    teacher: Annotated[ComponentConfig, Slot("teacher")] = Field(description="the network whose features are compared")
    grid: PositiveInt = Field(default=7, description="side of the teacher's feature grid, averaged over")
    features: Which = Field(default="mean", description=FEATURES)
    interpolation: Way = Field(default="linear", description="on the line, on the arc, or half of the rows of each")


class Interpolation(BetweenLatents):
    """Fréchet distance to the held-out images of what is decoded midway between random pairs of their latents.

    Linear interpolation between latents is the common test of whether a latent space has holes (Berthelot et al., arXiv
    1807.07543, section 3): a decoder makes images of the points between where it has none. The distance is on a
    teacher's features averaged over positions, `interpolation_<teacher>`, and each image's other one is drawn by the
    seed among the held-out split's. What the decoder loses at the latents themselves is in it: read it beside
    `share: 0`. `ifid` takes the nearest in place of a random one.
    """

    name = "interpolation"
    Config = InterpolationConfig
    split = "validation"
    config: InterpolationConfig

    def __init__(
        self, config: InterpolationConfig, *, image_size: int, classes: tuple[str, ...], teacher: Callable[..., Teacher]
    ):
        owner = f"metric '{self.name}'"
        network = TeacherFeatures(teacher(grid=config.grid), config.teacher, config.features, owner)
        super().__init__(config, image_size=image_size, classes=classes, extractor=network)

    def others(self, own_BD: Tensor, index_B: Tensor, others_ND: Tensor) -> Tensor:
        """Any, drawn by the image; the next one, where that is the image's own."""
        drawn_B = random_of(index_B, self.config.seed)
        place_B = (drawn_B * len(others_ND)).long().clamp_max(len(others_ND) - 1)
        is_own_B = (others_ND[place_B] == own_BD.cpu()).all(1)
        return (place_B + is_own_B.long()) % len(others_ND)


class IfidConfig(BetweenConfig):
    """Settings of `ifid`."""

    neighbours: PositiveInt = Field(
        default=10, description="the nearest latents, of which one is drawn: the nearer, the likelier; 1: the nearest"
    )
    interpolation: Way = Field(default="slerp", description="on the arc, on the line, or half of the rows of each")
    teacher: Annotated[ComponentConfig | None, Slot("teacher")] = Field(
        default=None, description="a network whose features are compared in place of Inception's; null: Inception's"
    )
    grid: PositiveInt = Field(default=7, description="side of the teacher's feature grid, averaged over")
    features: Which = Field(default="mean", description=FEATURES)
    weights: str = Field(default=weights.HUB, description=f"of the Inception network. {weights.DESCRIPTION}")


class Ifid(BetweenLatents):
    """Interpolated FID (iFID, arXiv 2603.05630): the Fréchet distance to the held-out images of what is decoded between
    each one's latent and its nearest neighbour's among the training split's; it predicts the FID of generation.

    As the paper's program computes it: neighbours by the cosine of whole latents (by the distance with `interpolation:
    linear`), one of the `neighbours` nearest drawn with probability softmax(-mean squared difference), midway on the
    arc; the abstract speaks of the nearest alone, `neighbours: 1`. Differences: images go through 8 bits and
    torch-fidelity's Inception, the latent is the mean, where the program samples a KL's posterior, and neighbours are
    looked for among `limit` latents. With a `teacher` it is no FID and named `ifid_<teacher>`.
    """

    name = "ifid"
    Config = IfidConfig
    config: IfidConfig

    def __init__(
        self,
        config: IfidConfig,
        *,
        image_size: int,
        classes: tuple[str, ...],
        teacher: Callable[..., Teacher] | None,
    ):
        owner, network = f"metric '{self.name}'", config.teacher
        extractor: Extractor
        if teacher is None or network is None:
            extractor = Inception(config.weights, config.seed, owner)
        else:
            extractor = TeacherFeatures(teacher(grid=config.grid), network, config.features, owner)
        super().__init__(config, image_size=image_size, classes=classes, extractor=extractor)

    @classmethod
    def external(cls, config: IfidConfig) -> str | None:
        """Identity of Inception's weights, where it is asked. Raises GaekitError where they are a file that is
        absent."""
        if config.teacher is not None:
            return None
        return f"weights {weights.identity(config.weights, ASSET, config.seed, EXPECTED)}"

    @classmethod
    def assets(cls, config: IfidConfig) -> tuple[Asset, ...]:
        """Inception's weights, where it is asked."""
        return () if config.teacher is not None else weights.assets(config.weights, ASSET, EXPECTED)

    def others(self, own_BD: Tensor, index_B: Tensor, others_ND: Tensor) -> Tensor:
        """One of the nearest, drawn by the image."""
        own = own_BD.double()
        place_BK = nearest(own, others_ND, self.config.neighbours, cosine=self.way != "linear").cpu()
        found_BKD = others_ND[place_BK].to(own)
        share_BK = torch.softmax(-(found_BKD - own[:, None]).square().mean(2), 1).cpu()
        drawn_B = random_of(index_B, self.config.seed).double()
        chosen_B = (share_BK.cumsum(1) <= drawn_B[:, None]).sum(1).clamp_max(share_BK.shape[1] - 1)
        return place_BK.gather(1, chosen_B[:, None])[:, 0]

    def protocol(self) -> dict[str, Any]:
        """How neighbours are found and chosen, and in which features."""
        return super().protocol() | {
            "neighbours": self.config.neighbours,
            "nearest_by": "squared distance" if self.way == "linear" else "cosine",
            "chosen": "softmax(-mean squared difference) over the nearest",
        }


BLOCK = 4096
"""Rows among which neighbours are looked for at once, in float64."""


def nearest(query_BN: Tensor, row_MN: Tensor, count: int, *, cosine: bool) -> Tensor:
    """Places (B, K) of the nearest rows, the nearest first: by the cosine or the squared distance, in float64 on the
    device of the queries."""
    best = query_BN.new_empty(len(query_BN), 0)
    places = torch.empty(len(query_BN), 0, dtype=torch.int64, device=query_BN.device)
    unit = torch.nn.functional.normalize(query_BN, dim=1) if cosine else query_BN
    for first in range(0, len(row_MN), BLOCK):
        rows = row_MN[first : first + BLOCK].to(query_BN)
        if cosine:
            cost = -(unit @ torch.nn.functional.normalize(rows, dim=1).T)
        else:
            cost = rows.square().sum(1) - 2 * unit @ rows.T
        best = torch.cat([best, cost], 1)
        own = torch.arange(first, first + len(rows), device=query_BN.device).expand(len(query_BN), -1)
        places = torch.cat([places, own], 1)
        best, order = best.topk(min(count, best.shape[1]), dim=1, largest=False, sorted=True)
        places = places.gather(1, order)
    return places
