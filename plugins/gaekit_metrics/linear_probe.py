"""How much of the class a linear classifier reads from the latents."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

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
ALL = 1 << 62


class LinearProbeConfig(ComponentConfig):
    """Settings of `linear_probe`."""

    solver: Literal["lbfgs", "sgd"] = Field(
        default="lbfgs",
        description="lbfgs: to the optimum of a penalised loss, on `limit` latents; sgd: minibatches of all of them, "
        "without a penalty, as the field probes large data",
    )
    epochs: PositiveInt = Field(default=90, description="of sgd: passes over the training latents")
    batch: PositiveInt = Field(default=1024, description="of sgd: latents a step")
    lr: PositiveFloat = Field(default=0.1, description="of sgd: rate of the first step; it falls as a cosine to 0")
    seed: NonNegativeInt = Field(default=0, description="of sgd: of the order in which latents come")
    C: PositiveFloat = Field(default=1.0, description="inverse strength of the L2 penalty of the logistic regression")
    max_iter: PositiveInt = Field(
        default=1000, description="iterations of L-BFGS, at most; the protocol says if they sufficed"
    )
    limit: PositiveInt = Field(
        default=20_000, description="of lbfgs: training latents it is fitted on, at most; an equal quota a class"
    )


class LinearProbe(Metric):
    """Accuracy on the held-out split of a logistic regression fitted on the training split's latents.

    Two numbers, since they rank methods differently: `linear_probe_flat` on all latent values, `linear_probe_pool` on
    their average over positions. Features are standardised by the training latents. With `solver: sgd` it is fitted on
    all of them by minibatches, momentum 0.9, and named `linear_probe_sgd_...`. Needs scikit-learn.
    Raises GaekitError for a data set without classes.
    """

    name = NAME
    Config = LinearProbeConfig
    revision = 2  # solver
    needs = "latents"
    needs_classes = True
    higher = ("linear_probe",)
    config: LinearProbeConfig

    def __init__(self, config: LinearProbeConfig, *, image_size: int, classes: tuple[str, ...]):
        super().__init__(config, image_size=image_size, classes=classes)
        require_classes(self)
        sklearn("sklearn.linear_model", NAME)  # a missing package is told before the latents are read
        self._train = TrainingRows(self, config.limit if config.solver == "lbfgs" else ALL)
        self._shape: tuple[int, ...] = ()
        self._probes: dict[str, _Probe | _SgdProbe] = {}
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
                self._probes[feature] = self._fitted(self._view(train, feature), train_labels)
        for feature, probe in self._probes.items():
            self._right[feature] += (probe.predict(self._view(rows, feature)) == labels).tolist()

    def compute(self) -> dict[str, float]:
        """{linear_probe_flat, linear_probe_pool: accuracy in [0, 1]}. Raises GaekitError without held-out latents."""
        require_some(self._count, self, "held-out latents")
        return {self._named(feature): sum(right) / len(right) for feature, right in self._right.items()}

    def intervals(self) -> dict[str, Interval]:
        """Those of shares of the held-out images, by the probes as they are fitted."""
        return {self._named(f): share_interval(sum(right), len(right)) for f, right in self._right.items()}

    def per_image(self) -> dict[str, Tensor]:
        """1 for each image whose class is read rightly, else 0."""
        return {self._named(f): torch.tensor(right, dtype=torch.float64) for f, right in self._right.items()}

    def protocol(self) -> dict[str, Any]:
        """The classifier, its settings, whether each fit converged, and the counts."""
        return {
            "implementation": implementation(self),
            **self._solver_facts(),
            "features": "flat: all values; pool: mean over positions; standardised by the training latents",
            "latent": list(self._shape),
            "split": "validation",
            "classes": len(self.classes),
            "classes_without_reference": self._train.absent,
            "n_reference": len(self._train),
            "n": self._count,
        }

    def _named(self, feature: str) -> str:
        return f"{self.name}_{'' if self.config.solver == 'lbfgs' else 'sgd_'}{feature}"

    def _fitted(self, rows: np.ndarray, labels: np.ndarray) -> _Probe | _SgdProbe:
        if self.config.solver == "lbfgs":
            return _Probe(self.config, rows, labels)
        return _SgdProbe(self.config, rows, labels, len(self.classes))

    def _solver_facts(self) -> dict[str, Any]:
        config = self.config
        if config.solver == "sgd":
            return {
                "classifier": "multinomial logistic regression, SGD, momentum 0.9, no penalty, cosine to 0, from zeros",
                "epochs": config.epochs,
                "batch": config.batch,
                "lr": config.lr,
                "seed": config.seed,
            }
        return {
            "classifier": "multinomial logistic regression, L-BFGS "
            f"(scikit-learn {sklearn('sklearn', NAME).__version__})",
            "C": config.C,
            "max_iter": config.max_iter,
            "converged": {f: probe.converged for f, probe in self._probes.items() if isinstance(probe, _Probe)},
            "limit": config.limit,
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


class _SgdProbe:
    """One standardised logistic regression by minibatches, in float32 on the CPU."""

    def __init__(self, config: LinearProbeConfig, rows: np.ndarray, labels: np.ndarray, classes: int):
        self._mean, std = rows.mean(0), rows.std(0)
        self._std = np.where(std > 0, std, 1.0)
        row_NV, label_N = self._standardised(rows), torch.from_numpy(labels)
        self._layer = nn.Linear(row_NV.shape[1], classes)
        nn.init.zeros_(self._layer.weight)
        nn.init.zeros_(self._layer.bias)
        optimizer = torch.optim.SGD(self._layer.parameters(), lr=config.lr, momentum=0.9)
        steps = config.epochs * -(-len(row_NV) // config.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        random = torch.Generator().manual_seed(config.seed)
        with torch.enable_grad():
            for _ in range(config.epochs):
                for place in torch.split(torch.randperm(len(row_NV), generator=random), config.batch):
                    optimizer.zero_grad()
                    torch.autograd.backward(functional.cross_entropy(self._layer(row_NV[place]), label_N[place]))
                    optimizer.step()
                    schedule.step()

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """The class of each row."""
        with torch.no_grad():
            return np.asarray(self._layer(self._standardised(rows)).argmax(1).numpy())

    def _standardised(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy((rows - self._mean) / self._std).float()
