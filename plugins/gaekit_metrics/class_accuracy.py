"""Do samples show their class? A classifier fitted on real images judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from gaekit.api import ComponentConfig, GaekitError, Interval, Metric
from gaekit.api.metrics import (
    TrainingRows,
    check_labels,
    implementation,
    require_classes,
    require_some,
    share_interval,
    to_uint8,
)
from gaekit_metrics._sklearn import sklearn

NAME = "class_accuracy"
FOLDS = 3
LUMA = (0.299, 0.587, 0.114)
"""Grey from RGB as in ITU-R BT.601, which Pillow's mode L takes too."""


class ClassAccuracyConfig(ComponentConfig):
    """Settings of `class_accuracy`."""

    side: PositiveInt = Field(
        default=8, description="images are averaged down to side x side pixels for the classifier"
    )
    color: bool = Field(default=False, description="keep red, green and blue; otherwise the classifier sees grey")
    C: PositiveFloat = Field(default=10.0, description="penalty of the support vector machine on errors")
    gamma: PositiveFloat | Literal["scale"] = Field(
        default="scale",
        description="width of its RBF kernel on pixels in [0, 1]; scale: 1 / (features x their variance)",
    )
    limit: PositiveInt = Field(
        default=10_000, description="real images it is fitted on, at most; an equal quota a class"
    )
    cross_validate: bool = Field(
        default=True, description=f"state its accuracy on real images by {FOLDS}-fold validation"
    )


class ClassAccuracy(Metric):
    """Share of samples that an RBF support vector machine, fitted on the real training split, puts in their class.

    A judge for small and simple images: compare with `real_accuracy` of the protocol, what it reaches on real images
    that it has not seen. Guidance raises the number, up to samples that all look alike: read it beside a Fréchet
    distance.
    Needs scikit-learn. Raises GaekitError for a data set without classes and for samples of the null label.
    """

    name = NAME
    Config = ClassAccuracyConfig
    needs = "samples"
    needs_classes = True
    higher = ("class_accuracy",)
    config: ClassAccuracyConfig

    def __init__(self, config: ClassAccuracyConfig, *, image_size: int, classes: tuple[str, ...]):
        super().__init__(config, image_size=image_size, classes=classes)
        require_classes(self)
        if config.side > image_size:
            raise GaekitError(f"metric '{self.name}': side = {config.side} exceeds image.size = {image_size}")
        sklearn("sklearn.svm", NAME)  # a missing package is told before the real images are read
        self._train = TrainingRows(self, config.limit)
        self._classifier: Any = None
        self._real_accuracy: float | None = None
        self._right = self._count = 0

    def extract(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> what the classifier sees of them: pixels in [0, 1] (B, side * side), times 3 in colour;
        float64, on the CPU."""
        pixels = to_uint8(image_B3RR, self).cpu().double() / 255
        if not self.config.color:
            pixels = (pixels * pixels.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return functional.adaptive_avg_pool2d(pixels, self.config.side).flatten(1)

    def reference_state(self) -> dict[str, Tensor]:
        """The rows that the classifier is fitted on, with their labels."""
        return self._train.state()

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Take over such rows."""
        self._train.load(state)

    def reference(self, row_BN: Tensor, label_B: Tensor) -> None:
        """Take in rows of real images of the training split with their labels; all before the first `update`."""
        if self._classifier is not None:
            raise RuntimeError(f"metric '{self.name}': reference() after update(); the classifier is fitted already")
        self._train.add(row_BN, check_labels(label_B, self))

    def update(self, row_BN: Tensor, label_B: Tensor) -> None:
        """Judge rows of generated images by their labels."""
        labels = check_labels(label_B, self)
        if self._classifier is None:
            self._fit()
        self._right += int((self._classifier.predict(row_BN.cpu().numpy()) == labels).sum())
        self._count += len(labels)

    def compute(self) -> dict[str, float]:
        """{class_accuracy: share in [0, 1]}. Raises GaekitError without samples."""
        require_some(self._count, self, "samples")
        return {self.name: self._right / self._count}

    def intervals(self) -> dict[str, Interval]:
        """That of a share of the samples, by the classifier as it is fitted."""
        return {self.name: share_interval(self._right, self._count)}

    def protocol(self) -> dict[str, Any]:
        """The classifier, its settings, its accuracy on real images, and the counts."""
        side, color = self.config.side, "RGB" if self.config.color else "grey"
        return {
            "implementation": implementation(self),
            "classifier": f"SVC, RBF kernel (scikit-learn {sklearn('sklearn', NAME).__version__})",
            "features": f"{side} x {side} {color} pixels in [0, 1]",
            "C": self.config.C,
            "gamma": self.config.gamma,
            "split": self.split,
            "classes": len(self.classes),
            "classes_without_reference": self._train.absent,
            "limit": self.config.limit,
            "n_reference": len(self._train),
            "real_accuracy": self._real_accuracy,
            "real_accuracy_by": f"stratified {FOLDS}-fold cross-validation on the reference",
            "n": self._count,
        }

    def _fit(self) -> None:
        rows, labels = self._train.arrays()
        self._classifier = self._new().fit(rows, labels)
        # Folds need a member of each class in every fold; without that the accuracy stays unknown (null), not guessed.
        if self.config.cross_validate and min(count for count in self._train.counts if count) >= FOLDS:
            selection = sklearn("sklearn.model_selection", NAME)
            folds = selection.StratifiedKFold(FOLDS, shuffle=True, random_state=0)
            scores = selection.cross_val_predict(self._new(), rows, labels, cv=folds) == labels
            self._real_accuracy = float(scores.mean())

    def _new(self) -> Any:
        # It draws a seed, of which its classes do not depend: not from numpy's global generator.
        return sklearn("sklearn.svm", NAME).SVC(kernel="rbf", C=self.config.C, gamma=self.config.gamma, random_state=0)
