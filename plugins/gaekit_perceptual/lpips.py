"""LPIPS: the learned perceptual distance (arXiv 1801.03924, version 0.1)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from gaekit.api import Asset, ComponentConfig, GaekitError, Perceptual, weights
from gaekit.api.assets import sha256_of
from gaekit.api.nn import FrozenModule
from gaekit_perceptual import backbone
from gaekit_perceptual.backbone import Published

NETS = {
    "vgg": Published("vgg16", "vgg16-397923af.pth", (3, 8, 15, 22, 29), smallest=16),
    "alex": Published("alexnet", "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11), smallest=31),
    "squeeze": Published("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12), smallest=17),
}
"""After which layers features are compared."""
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Per channel, of images in [-1, 1], as the heads were fitted with."""
SMALLEST_SQUARE = 1e-20


class LpipsConfig(ComponentConfig):
    """Settings of `lpips`."""

    net: Literal["vgg", "alex", "squeeze"] = Field(
        default="vgg", description="whose features are compared: vgg to train by (as GAE and LDM do), alex to report"
    )
    backbone: str = Field(
        default=weights.HUB,
        description="hub: torchvision's ImageNet weights, fetched once; random: untrained, for tests; else a path",
    )
    seed: NonNegativeInt = Field(default=0, description="of `backbone: random`")


class Lpips(Perceptual):
    """Learned perceptual distance, LPIPS 0.1: weighted differences of an ImageNet classifier's features.

    The weights of the differences come with the package lpips, the classifier's from torchvision (see `backbone`).
    """

    name = "lpips"
    Config = LpipsConfig

    def __init__(self, config: LpipsConfig, *, image_size: int):
        super().__init__(config, image_size=image_size)
        published = NETS[config.net]
        if image_size < published.smallest:
            fits = ", ".join(f"{net} from {other.smallest}" for net, other in NETS.items())
            raise GaekitError(
                f"perceptual 'lpips': images of {image_size} px are too small for `net: {config.net}`: {fits} px"
            )
        self.distance = FrozenModule(_Distance(config))

    @classmethod
    def external(cls, config: LpipsConfig) -> str:
        """Identity of the classifier's weights and of those of its differences. Raises GaekitError."""
        published = NETS[config.net]
        classifier = weights.identity(config.backbone, published.asset, config.seed, published.expected)
        return f"{classifier} heads:{sha256_of(_heads_file(config.net))}"

    @classmethod
    def assets(cls, config: LpipsConfig) -> tuple[Asset, ...]:
        """The classifier's weights; those of its differences come with the package."""
        published = NETS[config.net]
        return weights.assets(config.backbone, published.asset, published.expected)

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        """-> distance_B >= 0, float32, differentiable in both."""
        return cast(Tensor, self.distance(image_B3RR, other_B3RR))


class _Distance(nn.Module):
    """The classifier's layers with the weight of each of their channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: LpipsConfig):
        super().__init__()
        published = NETS[config.net]
        # First what an installation may lack, then what may have to be fetched.
        heads = weights.read(_heads_file(config.net))
        layers = backbone.load(config.backbone, published, config.seed, "perceptual 'lpips'")
        self.taps = published.taps
        self.layers = layers[: self.taps[-1] + 1]
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.weights = nn.ParameterList(heads[f"lin{index}.model.1.weight"][0] for index in range(len(self.taps)))

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        """-> distance_B: sum over layers of the mean over positions (eq. 1)."""
        pairs = zip(self.directions(image_B3RR), self.directions(other_B3RR), self.weights, strict=True)
        per_layer = [(weight * (first - second).square()).sum(1).mean((1, 2)) for first, second, weight in pairs]
        return torch.stack(per_layer).sum(0)

    def directions(self, image_B3RR: Tensor) -> Iterator[Tensor]:
        """The features after each tap, of length 1 over channels, float32."""
        x: Any = (image_B3RR.float() - self.mean) / self.std
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.taps:
                wide = x.float()
                # Clamped before the root, so that positions without any feature have a gradient of 0, not of 0 / 0.
                yield wide * torch.rsqrt(wide.square().sum(1, keepdim=True).clamp(min=SMALLEST_SQUARE))


def _heads_file(net: str) -> Path:
    """The file of the package lpips that holds the weights of the differences. Raises GaekitError."""
    found = find_spec("lpips")  # found, not imported: the package draws in scipy and more that is not needed
    if found is None or found.origin is None:
        raise GaekitError(
            "perceptual 'lpips' needs the package lpips, whose fitted weights it uses; "
            "install it with: pip install 'gaekit[metrics]'"
        )
    path = Path(found.origin).parent / "weights" / "v0.1" / f"{net}.pth"
    if not path.is_file():
        raise GaekitError(
            f"perceptual 'lpips': the installed package lpips lacks {path}; reinstall lpips 0.1.4 or newer"
        )
    return path
