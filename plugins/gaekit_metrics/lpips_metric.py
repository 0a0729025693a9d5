"""LPIPS of reconstructions: a learned perceptual distance (arXiv 1801.03924), by the lpips package."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from gaekit.api import Asset, ComponentConfig, Download, GaekitError, require, weights
from gaekit.api.assets import sha256_of
from gaekit.api.metrics import MeanMetric, implementation, in_blocks, to_uint8

Net = Literal["alex", "vgg", "squeeze"]
VERSION = "0.1"
SOURCE = "https://download.pytorch.org/models/"
ASSETS: dict[Net, Download] = {
    "alex": Download("torchvision's ImageNet weights of alexnet", f"{SOURCE}alexnet-owt-7be5be79.pth"),
    "vgg": Download("torchvision's ImageNet weights of vgg16", f"{SOURCE}vgg16-397923af.pth"),
    "squeeze": Download("torchvision's ImageNet weights of squeezenet1_1", f"{SOURCE}squeezenet1_1-b8a52dc0.pth"),
}
SMALLEST: dict[Net, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Side of the smallest image that the network's poolings leave something of."""


class LpipsConfig(ComponentConfig):
    """Settings of `lpips`."""

    net: Net = Field(default="alex", description="the network compared in; alex is its authors' choice for a metric")
    weights: str = Field(default=weights.HUB, description=f"of the network. {weights.DESCRIPTION}")
    seed: NonNegativeInt = Field(default=0, description="of `weights: random`")


class Lpips(MeanMetric):
    """LPIPS 0.1 (arXiv 1801.03924): learned perceptual distance of reconstructions, mean over images.

    The lpips package's own network and calibration, on uint8 pixels scaled to [-1, 1]. Numbers of different networks
    cannot be compared. Raises GaekitError where the package or the network's weights are absent, and for images too
    small.
    """

    name = "lpips"
    Config = LpipsConfig
    revision = 2  # images in blocks of one size
    config: LpipsConfig

    def __init__(self, config: LpipsConfig, *, image_size: int, classes: tuple[str, ...]):
        super().__init__(config, image_size=image_size, classes=classes)
        if image_size < (least := SMALLEST[config.net]):
            raise GaekitError(f"metric 'lpips': net: {config.net} needs {least} px and image.size is {image_size}")
        self._sha256: str | None = None
        self._network = self._load().eval().requires_grad_(False)

    @classmethod
    def external(cls, config: LpipsConfig) -> str:
        """Identity of the network's weights. Raises GaekitError where they are a file that is absent."""
        return weights.identity(config.weights, ASSETS[config.net], config.seed, _expected(config.net))

    @classmethod
    def assets(cls, config: LpipsConfig) -> tuple[Asset, ...]:
        """The network's weights; those of its calibration come with the package."""
        return weights.assets(config.weights, ASSETS[config.net], _expected(config.net))

    @torch.no_grad()
    def update(self, real_B3RR: Tensor, fake_B3RR: Tensor) -> None:
        """Take in a batch of images and their reconstructions, in [-1, 1]."""
        real, fake = (to_uint8(image, self).float() / 127.5 - 1 for image in (real_B3RR, fake_B3RR))
        values: list[float] = self._distances(real, fake).double().flatten().tolist()
        if not all(map(math.isfinite, values)):
            raise GaekitError("metric 'lpips': the network gave a distance that is not finite; check its weights")
        self.values += values

    def _distances(self, real_B3RR: Tensor, fake_B3RR: Tensor) -> Tensor:
        """One pair at a time on a CPU, where a pair's place in a batch moves the last digit too."""
        network = self._network.to(real_B3RR.device)
        if real_B3RR.device.type == "cpu":
            pairs = zip(torch.split(real_B3RR, 1), torch.split(fake_B3RR, 1), strict=True)
            return torch.cat([network(real, fake) for real, fake in pairs])
        return in_blocks(lambda both: network(both[:, :3], both[:, 3:]), torch.cat([real_B3RR, fake_B3RR], 1))

    def protocol(self) -> dict[str, Any]:
        """The package's version, the network and its weights' hash, and on how many images."""
        from importlib.metadata import version

        return {
            "implementation": f"{implementation(self)}, lpips {version('lpips')}",
            "net": self.config.net,
            "version": VERSION,
            "weights": self.external(self.config),
            "sha256": self._sha256,
            "pixels": "uint8, floor(127.5 x + 128), scaled to [-1, 1]",
            "reduction": "mean over images",
            "n": len(self.values),
        }

    def _load(self) -> nn.Module:
        config, owner = self.config, "metric 'lpips'"
        package = require("lpips", extra="metrics", wanted_by=owner)
        asset = weights.chosen(config.weights, ASSETS[config.net], _expected(config.net))
        if asset is None:
            return weights.random_network(lambda: _untrained(package, config.net), config.seed, owner)
        path = asset.fetch(owner)
        with torch.random.fork_rng(devices=[]):  # weights are drawn first, to be overwritten
            network = _untrained(package, config.net)
        backbone: Any = network.net
        own, given = _published_names(backbone), weights.read(path)
        state = {own.get(name, name): given[name] for name in given if not name.startswith("classifier.")}
        weights.load_into(backbone, state, path)
        self._sha256 = sha256_of(path)
        return network


def _expected(net: Net) -> str:
    return f"{ASSETS[net].file} ({ASSETS[net].url})"


def _untrained(package: Any, net: Net) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, about how the lpips package calls it
        network: nn.Module = package.LPIPS(net=net, version=VERSION, pnet_rand=True, verbose=False)
    return network


def _published_names(backbone: nn.Module) -> dict[str, str]:
    """torchvision's name of each tensor -> the package's, which cuts its layers into slices: features.3 is slice2.3."""
    names = backbone.state_dict()
    return {f"features.{name.partition('.')[2]}": name for name in names}
