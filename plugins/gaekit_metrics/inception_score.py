"""Inception Score (arXiv 1606.03498) as ADM computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Interval, Metric
from gaekit.api.metrics import Collector, Features, Scoring, parts_interval
from gaekit_metrics._sampled import InceptionMetric, InceptionSettings


def inception_scores(logit_NK: Tensor, splits: int) -> list[float]:
    """exp of the mean KL(p(y|x) || p(y)) in each of `splits` consecutive parts, float64, from logits without bias.

    Parts begin at i N // splits, so that each image counts once, whatever N.
    """
    scores = []
    for part in range(splits):
        first, last = (i * len(logit_NK) // splits for i in (part, part + 1))
        log_p = logit_NK[first:last].double().log_softmax(1)
        p = log_p.exp()
        log_marginal = log_p.logsumexp(0) - math.log(last - first)
        scores.append(float((p * (log_p - log_marginal)).sum(1).mean().exp()))
    return scores


class Logits(Collector):
    """The logits of all images."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def choose(self, count: int) -> range:
        """All of the next `count` images."""
        return range(count)

    def state(self) -> dict[str, Tensor]:
        """The logits."""
        return {"logits": torch.cat(self.batches)} if self.batches else {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.batches = list(state.values())

    def add(self, features: Features) -> None:
        """Take in a batch."""
        self.batches.append(features.logit_BK.cpu())


class Inceptions(Scoring):
    """Gathers the logits of generated images for the score; they come in class order, so a seed shuffles them."""

    fake: Logits

    def __init__(self, metric: Metric, splits: int, seed: int):
        self.metric, self.splits, self.seed = metric, splits, seed
        self.fake = Logits()
        self._scores: list[float] = []

    def compute(self) -> dict[str, float]:
        """{inception_score: mean over splits}. Raises GaekitError for fewer images than splits."""
        logit_NK = torch.cat(self.fake.batches) if self.fake.batches else torch.empty(0, 1)
        if len(logit_NK) < self.splits:
            raise GaekitError(
                f"metric '{self.metric.name}': {len(logit_NK)} generated image(s) cannot be parted in {self.splits} "
                f"splits; sample more, or lower `splits`"
            )
        # RandomState's stream is frozen by numpy; with this seed and call the order is also torch-fidelity's.
        order = np.random.RandomState(self.seed).permutation(len(logit_NK))
        self._scores = inception_scores(logit_NK[torch.from_numpy(order)], self.splits)
        return {"inception_score": float(np.mean(self._scores))}

    def intervals(self) -> dict[str, Interval]:
        """From the spread over the splits; none of a single one."""
        interval = parts_interval(float(np.mean(self._scores)), self._scores, "splits")
        return {} if interval is None else {"inception_score": interval}

    def protocol(self) -> dict[str, Any]:
        """Splits, the shuffle's seed, and the spread over the splits (null before `compute`)."""
        return {
            "splits": self.splits,
            "shuffle_seed": self.seed,
            "inception_score_std": float(np.std(self._scores)) if self._scores else None,
            "inception_score": "mean over splits of exp(mean KL), logits without bias, float64",
        }


class InceptionScoreSettings(ComponentConfig):
    """What the Inception Score can be told."""

    splits: PositiveInt = Field(default=10, description="parts of the shuffled samples, whose scores are averaged")


class InceptionScoreConfig(InceptionScoreSettings, InceptionSettings):
    """Settings of `inception_score`."""


class InceptionScore(InceptionMetric):
    """Inception Score (arXiv 1606.03498) of generated images, the mean over 10 splits as in ADM's evaluation.

    It says how surely Inception names the images and how various the names are, for images like ImageNet's. It knows no
    real images. Raises GaekitError without the network's weights, and for fewer images than splits.
    """

    name = "inception_score"
    Config = InceptionScoreConfig
    config: InceptionScoreConfig

    def scorings(self) -> list[Scoring]:
        """The score alone."""
        return [Inceptions(self, self.config.splits, self.config.seed)]
