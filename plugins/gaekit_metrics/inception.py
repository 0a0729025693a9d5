"""The Inception network of FID, Inception Score, precision and recall: torch-fidelity's, equal to the original's."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.api import Download, require, weights
from gaekit.api.assets import sha256_of
from gaekit.api.metrics import Features

FEATURES = "2048"
LOGITS = "logits_unbiased"
WIDTH = 2048
ASSET = Download(
    "the FID-compatible Inception network",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
EXPECTED = f"{ASSET.file} ({ASSET.url})"


class Inception:
    """torch-fidelity's InceptionV3, frozen: resizes uint8 images to 299 px as TensorFlow 1 does, float32, no TF32.

    `setting` is hub, random or a path. Raises GaekitError where the package or the weights are absent or do not fit.
    """

    width = WIDTH

    def __init__(self, setting: str, seed: int, owner: str):
        self._sha256: str | None = None
        self._weights = weights.identity(setting, ASSET, seed, EXPECTED)
        self._version = str(require("torch_fidelity", extra="metrics", wanted_by=owner).__version__)
        asset = weights.chosen(setting, ASSET, EXPECTED)
        if asset is None:
            self._network = weights.random_network(_random, seed, owner)
        else:
            path = asset.fetch(owner)
            state = weights.read(path)
            self._network = _untrained()
            weights.load_into(self._network, state, path)
            self._sha256 = sha256_of(path)

    @torch.no_grad()
    def __call__(self, pixel_B3RR: Tensor) -> Features:
        """uint8 images (B, 3, R, R) -> features (B, 2048) and logits (B, 1008)."""
        network = self._network.to(pixel_B3RR.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return Features(*network(pixel_B3RR))

    def protocol(self) -> dict[str, Any]:
        """The package and its version, the weights and their sha256 (null for random ones), resize and precision."""
        return {
            "network": f"InceptionV3 of torch-fidelity {self._version}",
            "weights": self._weights,
            "sha256": self._sha256,
            "feature_dim": self.width,
            "resize": "bilinear to 299 px as TensorFlow 1",
            "precision": "float32",
        }


def _random() -> nn.Module:
    """He's initialisation: under torch's own, features vanish over this depth and every image looks the same."""
    network = _untrained()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def _untrained() -> nn.Module:
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network: nn.Module = _network_class()("inception", [FEATURES, LOGITS], feature_extractor_weights_path=empty)
    return network


def _network_class() -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class InceptionV3(FeatureExtractorInceptionV3):  # type: ignore[misc]
        """The network alone: its constructor insists on unpickling a file, for which it is handed an empty one."""

        def load_state_dict(self, state_dict: Any, *args: Any, **keywords: Any) -> None:
            """Nothing: weights come later, read without running code."""

    return InceptionV3
