"""The base of metrics that are a mean over pairs of images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gaekit.api.metric import Metric
from gaekit.api.metrics.rows import require_some
from gaekit.intervals import Interval, mean_interval


class MeanMetric(Metric):
    """Base of the metrics of pairs whose number is the mean of every image's own: `update` appends these to `values`,
    in the order of the images."""

    needs = "pairs"

    def __init__(self, config: Any, *, image_size: int, classes: tuple[str, ...]):
        super().__init__(config, image_size=image_size, classes=classes)
        self.values: list[float] = []

    def compute(self) -> dict[str, float]:
        """{its name: the mean over images}, summed exactly: no order of the images changes a bit. Raises GaekitError
        without images."""
        require_some(len(self.values), self, "pairs of images")
        return {self.name: math.fsum(self.values) / len(self.values)}

    def intervals(self) -> dict[str, Interval]:
        """Student's t; none for fewer than ten images."""
        interval = mean_interval(self.values)
        return {} if interval is None else {self.name: interval}

    def per_image(self) -> dict[str, Tensor]:
        """Every image's own value, float64."""
        return {self.name: torch.tensor(self.values, dtype=torch.float64)}
