"""Images on uint8's grid, labelled rows for a classifier, the head of a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaekit.api.metric import Metric
from gaekit.errors import GaekitError
from gaekit.values import to_pixels

if TYPE_CHECKING:
    import numpy as np


def implementation(metric: Metric) -> str:
    """What computed a number, for its protocol: `gaekit psnr 1`."""
    return f"gaekit {metric.name} {metric.revision}"


def to_uint8(image_B3RR: Tensor, metric: Metric) -> Tensor:
    """Images in [-1, 1] -> floor(127.5 x + 128) as uint8, the grid on which images are saved and compared.

    Raises GaekitError where a pixel is not finite: no grey level stands for it, and a number would hide it.
    """
    if not torch.isfinite(image_B3RR).all():
        raise GaekitError(
            f"metric '{metric.name}': an image holds pixels that are not finite; images must be in [-1, 1]"
        )
    return to_pixels(image_B3RR.detach())


def require_some(count: int, metric: Metric, what: str) -> None:
    """Raises GaekitError where there was nothing to judge."""
    if count == 0:
        raise GaekitError(f"metric '{metric.name}' was given no {what}; it needs at least one")


def require_classes(metric: Metric) -> None:
    """Raises GaekitError for a data set without at least two classes, about which a classifier can say nothing."""
    if len(metric.classes) < 2:
        raise GaekitError(
            f"metric '{metric.name}' needs a data set with at least two classes; this one has {len(metric.classes)}: "
            f"take '{metric.name}' out of evaluate.metrics"
        )


def check_labels(label_B: Tensor, metric: Metric) -> list[int]:
    """The labels as ints. Raises GaekitError for one that names no class, such as the null label."""
    labels: list[int] = label_B.tolist()
    for label in labels:
        if not 0 <= label < len(metric.classes):
            raise GaekitError(
                f"metric '{metric.name}': label {label} is no class; the data set's labels are 0 to "
                f"{len(metric.classes) - 1} (samples of the null label show no class in particular)"
            )
    return labels


class TrainingRows:
    """The feature rows that a classifier is fitted on: at most `limit // K` of each of K classes, the first that come.

    A quota filled in order depends on the order of the data alone, not on how it was cut into batches.
    Raises GaekitError where the limit leaves no row for each class.
    """

    def __init__(self, metric: Metric, limit: int):
        if limit < len(metric.classes):
            raise GaekitError(
                f"metric '{metric.name}': limit = {limit} is below the {len(metric.classes)} classes; "
                f"it must leave at least one image for each"
            )
        self.metric, self.quota = metric, limit // len(metric.classes)
        self.counts = [0] * len(metric.classes)
        self._rows: list[Tensor] = []
        self._labels: list[int] = []

    def add(self, row_BN: Tensor, labels: Sequence[int]) -> None:
        """Keep the rows whose class is not full yet."""
        kept = []
        for index, label in enumerate(labels):
            if self.counts[label] < self.quota:
                self.counts[label] += 1
                kept.append(index)
        self._rows.append(row_BN[kept].cpu())
        self._labels.extend(labels[index] for index in kept)

    def state(self) -> dict[str, Tensor]:
        """The rows kept, with their labels, in the order in which they came."""
        return {"rows": torch.cat(self._rows), "labels": torch.tensor(self._labels)} if self._rows else {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self._rows = [state["rows"]] if state else []
        labels = state["labels"] if state else torch.zeros(0, dtype=torch.int64)
        self._labels, self.counts = labels.tolist(), labels.bincount(minlength=len(self.counts)).tolist()

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def absent(self) -> list[str]:
        """The classes of which no row came."""
        return [name for name, count in zip(self.metric.classes, self.counts, strict=True) if count == 0]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows in float64, labels). Raises GaekitError where fewer than two classes came."""
        if sum(count > 0 for count in self.counts) < 2:
            raise GaekitError(
                f"metric '{self.metric.name}' fits a classifier and needs real images of at least two classes; "
                f"the training split gave {len(self)} of {sum(count > 0 for count in self.counts)}"
            )
        return torch.cat(self._rows).double().numpy(), torch.tensor(self._labels).numpy()
