"""torchvision's ImageNet classifiers up to their last convolution, and where their weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gaekit.api import Download, require, weights


@dataclass(frozen=True)
class Published:
    """A classifier of torchvision's: `model` is its name there, `taps` the layers that LPIPS compares, `smallest` the
    side of the smallest image that reaches the last of them."""

    model: str
    file: str
    taps: tuple[int, ...]
    smallest: int

    @property
    def asset(self) -> Download:
        """Its weights, as torchvision publishes them."""
        url = f"https://download.pytorch.org/models/{self.file}"
        return Download(f"torchvision's ImageNet weights of {self.model}", url, alias=self.file)

    @property
    def expected(self) -> str:
        """What a path should lead to."""
        return f"{self.file} ({self.asset.url})"


def load(source: str, published: Published, seed: int, owner: str) -> nn.Sequential:
    """The convolutional part, with weights by `source`: hub, random or a path. Raises GaekitError.

    torch's CPU generator stays as it was.
    """
    models: Any = require("torchvision.models", extra="metrics", wanted_by=owner)
    with torch.device("meta"):  # the classifier on top, most of VGG, is never made
        features: nn.Sequential = getattr(models, published.model)(weights=None).features
    asset = weights.chosen(source, published.asset, published.expected)
    if asset is None:
        return weights.random_network(lambda: _initialised(features), seed, f"{owner}: {published.model}")
    _load_into(features, asset.fetch(owner), published)
    return features


def _initialised(features: nn.Sequential) -> nn.Sequential:
    features.to_empty(device="cpu")
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            # He's initialisation keeps the activations' size through any number of layers.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return features


def _load_into(features: nn.Sequential, path: Path, published: Published) -> None:
    prefix = "features."
    state = {k.removeprefix(prefix): v.float() for k, v in weights.read(path).items() if k.startswith(prefix)}
    name = f"the features of torchvision's {published.model} ({published.file})"
    weights.load_into(features, state, path, name=name, assign=True)
