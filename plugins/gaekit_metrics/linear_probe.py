"""How much of the class a linear classifier reads from the latents."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from gaekit.api import ComponentConfig, GaekitError, Interval, Metric
from gaekit.api.metrics import (
    TrainingRows,
    check_labels,
    implementation,
    require_classes,
    require_some,
    share_interval,
)
from gaekit_metrics._sklearn import sklearn

NAME = "linear_probe"


class LinearProbeConfig(ComponentConfig):
    """Settings of `linear_probe`."""

    C: PositiveFloat = Field(default=1.0, description="inverse strength of the L2 penalty of the logistic regression")
    max_iter: PositiveInt = Field(
        default=1000, description="iterations of L-BFGS, at most; the protocol says if they sufficed"
    )
    limit: PositiveInt = Field(
        default=20_000, description="training latents it is fitted on, at most; an equal quota a class"
    )


class LinearProbe(Metric):
    """Accuracy on the held-out split of a logistic regression fitted on the training split's latents.

    Two numbers, since they rank methods differently: `linear_probe_flat` on all latent values, `linear_probe_pool` on
    their average over positions. Features are standardised by the training latents. Needs scikit-learn.
    Raises GaekitError for a data set without classes.
    """

    name = NAME
    Config = LinearProbeConfig
    needs = "latents"
    needs_classes = True
    higher = ("linear_probe",)
    config: LinearProbeConfig

    def __init__(self, config: LinearProbeConfig, *, image_size: int, classes: tuple[str, ...]):
        super().__init__(config, image_size=image_size, classes=classes)
        require_classes(self)
        sklearn("sklearn.linear_model", NAME)  # a missing package is told before the latents are read
        self._train = TrainingRows(self, config.limit)
        self._shape: tuple[int, ...] = ()
        self._probes: dict[str, _Probe] = {}
        self._right: dict[str, list[bool]] = {"flat": [], "pool": []}

    def reference(self, latent_BDHW: Tensor, label_B: Tensor) -> None:
        """Take in latents of the training split with their labels; all before the first `update`."""
        if self._probes:
            raise RuntimeError(f"metric '{self.name}': reference() after update(); the probes are fitted already")
        self._train.add(self._flat(latent_BDHW), check_labels(label_B, self))

    def update(self, latent_BDHW: Tensor, label_B: Tensor) -> None:
        """Judge latents of the held-out split."""
        labels = check_labels(label_B, self)
        rows = self._flat(latent_BDHW).cpu().double().numpy()
        if not self._probes:
            train, train_labels = self._train.arrays()
            for feature in self._right:
                self._probes[feature] = _Probe(self.config, self._view(train, feature), train_labels)
        for feature, probe in self._probes.items():
            self._right[feature] += (probe.predict(self._view(rows, feature)) == labels).tolist()

    def compute(self) -> dict[str, float]:
        """{linear_probe_flat, linear_probe_pool: accuracy in [0, 1]}. Raises GaekitError without held-out latents."""
        require_some(self._count, self, "held-out latents")
        return {f"{self.name}_{feature}": sum(right) / len(right) for feature, right in self._right.items()}

    def intervals(self) -> dict[str, Interval]:
        """Those of shares of the held-out images, by the probes as they are fitted."""
        return {f"{self.name}_{f}": share_interval(sum(right), len(right)) for f, right in self._right.items()}

    def per_image(self) -> dict[str, Tensor]:
        """1 for each image whose class is read rightly, else 0."""
        return {f"{self.name}_{f}": torch.tensor(right, dtype=torch.float64) for f, right in self._right.items()}

    def protocol(self) -> dict[str, Any]:
        """The classifier, its settings, whether each fit converged, and the counts."""
        package = sklearn("sklearn", NAME)
        return {
            "implementation": implementation(self),
            "classifier": f"multinomial logistic regression, L-BFGS (scikit-learn {package.__version__})",
            "features": "flat: all values; pool: mean over positions; standardised by the training latents",
            "latent": list(self._shape),
            "C": self.config.C,
            "max_iter": self.config.max_iter,
            "converged": {feature: probe.converged for feature, probe in self._probes.items()},
            "split": "validation",
            "classes": len(self.classes),
            "classes_without_reference": self._train.absent,
            "limit": self.config.limit,
            "n_reference": len(self._train),
            "n": self._count,
        }

    @property
    def _count(self) -> int:
        return len(self._right["flat"])

    def _flat(self, latent_BDHW: Tensor) -> Tensor:
        if not torch.isfinite(latent_BDHW).all():
            raise GaekitError(f"metric '{self.name}': a latent holds values that are not finite")
        self._shape = tuple(latent_BDHW.shape[1:])
        return latent_BDHW.detach().flatten(1)

    def _view(self, rows: np.ndarray, feature: str) -> np.ndarray:
        return rows if feature == "flat" else rows.reshape(len(rows), self._shape[0], -1).mean(2)


class _Probe:
    """One standardised logistic regression; `converged` tells whether L-BFGS ended by its tolerance."""

    def __init__(self, config: LinearProbeConfig, rows: np.ndarray, labels: np.ndarray):
        linear_model, exceptions = sklearn("sklearn.linear_model", NAME), sklearn("sklearn.exceptions", NAME)
        self._scaler = sklearn("sklearn.preprocessing", NAME).StandardScaler().fit(rows)
        self._model = linear_model.LogisticRegression(C=config.C, max_iter=config.max_iter)
        with warnings.catch_warnings(record=True) as caught:
            # As an exception it would lose the fit: the model keeps its last iterate, and the protocol tells.
            warnings.simplefilter("always", exceptions.ConvergenceWarning)
            self._model.fit(self._scaler.transform(rows), labels)
        self.converged = True
        for warning in caught:
            if issubclass(warning.category, exceptions.ConvergenceWarning):
                self.converged = False
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The class of each row."""
        return np.asarray(self._model.predict(self._scaler.transform(rows)))
