"""Whether samples are nearer to training images than held-out images are (arXiv 2004.05675, 2102.08921)."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from gaekit.api import GaekitError, Interval
from gaekit.api.metrics import Scoring, Subset, mean_interval, nearer_shares, share_interval
from gaekit_metrics._sampled import double_device
from gaekit_metrics._teachers import TeacherMetric, TeacherSettings
from gaekit_metrics.precision_recall import nearest_of

TAIL = 0.05
"""The share of held-out images nearer than which a sample counts for the tail."""
FEWEST_HELD_OUT = 20
"""Of which 5 % are one."""


class Memorised(Scoring):
    """Gathers embeddings of training, held-out and generated images, and compares distances to the nearest training
    image."""

    real: Subset
    held_out: Subset
    fake: Subset

    def __init__(self, metric: TeacherMetric, config: Any):
        self.metric, self.seed = metric, config.seed
        self.real, self.fake = Subset(config.training_limit, config.seed), Subset(config.limit, config.seed)
        self.held_out = Subset(config.held_out_limit, config.seed)
        self._values: dict[str, float] = {}
        self._intervals: dict[str, Interval | None] = {}
        self._authentic_held_out: float | None = None

    def compute(self) -> dict[str, float]:
        """{memorisation_<teacher>, ..._tail, authenticity_<teacher>: shares in [0, 1]}. Raises GaekitError for fewer
        than two training, twenty held-out, or any generated images."""
        sides = ((self.real, 2, "training"), (self.held_out, FEWEST_HELD_OUT, "held-out"), (self.fake, 1, "generated"))
        for side, fewest, what in sides:
            if len(side) < fewest:
                raise GaekitError(
                    f"metric '{self.metric.name}' was given {len(side)} {what} image(s); it needs at least {fewest}"
                )
        device = double_device(self.fake.device)
        unit = torch.nn.functional.normalize
        training, held_out, fake = (
            unit(side.rows().to(device).double(), dim=1) for side in (self.real, self.held_out, self.fake)
        )
        distance, authentic = _to_nearest(fake, training)
        others, authentic_others = _to_nearest(held_out, training)
        shares = nearer_shares(distance, others)
        rank = max(1, math.ceil(TAIL * len(others)))
        tail = int((distance < others.kthvalue(rank).values).sum())
        own, count, name = int(authentic.sum()), len(fake), self.metric.number
        authenticity = name.replace(self.metric.name, "authenticity", 1)
        self._authentic_held_out = float(authentic_others.double().mean())
        self._intervals = {
            name: mean_interval(shares.tolist()),
            f"{name}_tail": share_interval(tail, count),
            authenticity: share_interval(own, count),
        }
        return {name: float(shares.mean()), f"{name}_tail": tail / count, authenticity: own / count}

    def intervals(self) -> dict[str, Interval]:
        """About other generated images, against the same training and held-out ones: Student's t, and Wilson's of the
        two shares of images."""
        return {name: interval for name, interval in self._intervals.items() if interval is not None}

    def protocol(self) -> dict[str, Any]:
        """How many images of each side were judged, what the shares are of, and what the held-out images' own
        authenticity is (null before `compute`)."""
        return {
            "distance": "Euclidean between embeddings of length 1, to the nearest training image, float64",
            "memorisation": "share of pairs in which the sample is nearer than the held-out image; .5 where alike",
            "tail": f"share of samples nearer than all but {TAIL:g} of the held-out images; {TAIL:g} where alike",
            "authenticity": "share of samples farther from their nearest training image than this is from its own",
            "authenticity_held_out": self._authentic_held_out,
            "n_judged": len(self.fake),
            "n_training_judged": len(self.real),
            "n_held_out_judged": len(self.held_out),
            "subset_seed": self.seed,
        }


def _to_nearest(row_NF: Tensor, training_MF: Tensor) -> tuple[Tensor, Tensor]:
    """(squared distance to the nearest training image, whether that is farther than the nearest other training image
    is from this one: authenticity, arXiv 2102.08921 section 4.3), (N,) each."""
    distance_N1, place_N1 = nearest_of(row_NF, training_MF, 1)
    found, inverse = torch.unique(place_N1[:, 0], return_inverse=True)
    own, _ = nearest_of(training_MF[found], training_MF, 2)  # the nearest of all is the image itself
    return distance_N1[:, 0], distance_N1[:, 0] > own[inverse, 1]


class MemorisationConfig(TeacherSettings):
    """Settings of `memorisation`."""

    limit: PositiveInt = Field(default=10_000, description="generated images judged, at most, drawn by the seed")
    training_limit: PositiveInt = Field(default=50_000, description="training images searched, at most, drawn")
    held_out_limit: PositiveInt = Field(default=10_000, description="held-out images judged, at most, drawn")
    seed: NonNegativeInt = Field(default=2020, description="of drawn subsets")


class Memorisation(TeacherMetric):
    """Share of pairs of a sample and a held-out image in which the sample is nearer to a training image, on a teacher's
    features.

    One half where samples lie as held-out images do, more where training images are copied, and also where guidance
    makes samples typical: the statistic of Meehan et al. (arXiv 2004.05675), without their cells. `..._tail` is the
    share of samples nearer than all but 5 % of the held-out images: 5 % where alike, and what a few copies raise first.
    `authenticity_...` (Alaa et al., arXiv 2102.08921) is the share of samples that are farther from their nearest
    training image than that one from its own. Compares with the training split and calibrates by the held-out one.
    Raises GaekitError for fewer than 20 held-out images.
    """

    name = "memorisation"
    Config = MemorisationConfig
    higher = ("authenticity",)
    config: MemorisationConfig

    def scorings(self) -> list[Scoring]:
        """The three shares."""
        return [Memorised(self, self.config)]
