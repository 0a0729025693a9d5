"""What the metrics on a teacher's features share: the teacher as an extractor, and its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from gaekit.api import ComponentConfig, GaekitError, Slot, Teacher
from gaekit.api.metrics import FeatureMetric, Features, FeatureSettings, in_blocks

Which = Literal["mean", "class_token"]
FEATURES = "mean: of the teacher's features over its grid; class_token: what the model itself sums an image up in, its "
FEATURES += "class token, or what its head pools"


def named_after(config: Any) -> str:
    """How numbers on a teacher's features are named: after the teacher, and the features that are not the default."""
    default = type(config).model_fields["features"].default
    return str(config.teacher.use) + ("" if config.features == default else f"_{config.features}")


class Pooled(nn.Module):
    """What a teacher sums an image up in, as a network's call: FLOP are counted by calls."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.teacher = teacher

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> the teacher's own embedding of each (B, P), float32."""
        return self.teacher.pooled(image_B3RR)


class TeacherFeatures:
    """A teacher as an extractor: one vector an image. Raises GaekitError where it has no class token."""

    spatial = 0

    def __init__(self, teacher: Teacher, config: ComponentConfig, features: Which, owner: str):
        teacher.eval().requires_grad_(False)
        self.network: Teacher | Pooled = teacher if features == "mean" else Pooled(teacher)
        self.config, self.features = config, features
        width = teacher.feature_dim if features == "mean" else teacher.pooled_dim
        if width is None:
            raise GaekitError(
                f"{owner}: teacher '{config.use}' of these settings has no class token and no head that pools; take "
                "`features: mean`, or its last layer, or another teacher"
            )
        self.width = width

    @property
    def teacher(self) -> Teacher:
        """The teacher itself."""
        return self.network.teacher if isinstance(self.network, Pooled) else self.network

    @torch.no_grad()
    def __call__(self, pixel_B3RR: Tensor) -> Features:
        """uint8 images of any size -> features (B, F), float64."""
        self.network.to(pixel_B3RR.device)
        return Features.parted(in_blocks(self._rows, pixel_B3RR).double(), self.width, 0)

    def protocol(self) -> dict[str, Any]:
        """The teacher, the identity of its weights, which of its features, and at which size it sees images."""
        grid = self.teacher.grid
        mean = f"mean over a grid of {grid} x {grid}"
        return {
            "teacher": self.config.model_dump(mode="json"),
            "teacher_identity": type(self.teacher).external(self.config),
            "feature_dim": self.width,
            "features": mean if self.features == "mean" else "class token, or what the model's head pools",
            "input_size": self.teacher.input_size,
        }

    def _rows(self, pixel_B3RR: Tensor) -> Tensor:
        image_B3RR = pixel_B3RR.float() / 127.5 - 1
        out: Tensor = self.network(image_B3RR)
        return out.mean((2, 3), dtype=torch.float64) if self.features == "mean" else out


class TeacherSettings(FeatureSettings):
    """What every metric on a teacher's features can be told."""

    teacher: Annotated[ComponentConfig, Slot("teacher")] = Field(description="the network whose features are compared")
    grid: PositiveInt = Field(
        default=16,
        description="side of the teacher's feature grid; with it goes the size at which it sees images (16: 224 px for "
        "a ViT of patch 14; 7: 224 px for a network of stride 32)",
    )
    features: Which = Field(default="class_token", description=FEATURES)


class TeacherMetric(FeatureMetric):
    """Base of the metrics on a teacher's features. Their numbers are named after the teacher."""

    config: Any

    def __init__(self, config: Any, *, image_size: int, classes: tuple[str, ...], teacher: Callable[..., Teacher]):
        owner = f"metric '{self.name}'"
        network = TeacherFeatures(teacher(grid=config.grid), config.teacher, config.features, owner)
        super().__init__(config, image_size=image_size, classes=classes, extractor=network)

    @property
    def number(self) -> str:
        """The name of its number: `cmmd_clip`, and of what is not the default feature: `cmmd_clip_mean`."""
        return f"{self.name}_{named_after(self.config)}"
