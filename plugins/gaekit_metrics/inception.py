"""The Inception network of FID, Inception Score, precision and recall: torch-fidelity's, equal to the original's."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.api import Download, require, weights
from gaekit.api.assets import sha256_of
from gaekit.api.metrics import Features, in_blocks

FEATURES = "2048"
LOGITS = "logits_unbiased"
WIDTH = 2048
CHANNELS, SIDE = 7, 17
SPATIAL = CHANNELS * SIDE * SIDE
"""Spatial features: the first 7 channels of 17 x 17 positions of `mixed_6/conv`, as in ADM's evaluator: 2,023."""
ASSET = Download(
    "the FID-compatible Inception network",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
EXPECTED = f"{ASSET.file} ({ASSET.url})"


class Inception:
    """torch-fidelity's InceptionV3, frozen: resizes uint8 images to 299 px as TensorFlow 1 does, float32, no TF32.

    `setting` is hub, random or a path; with `spatial` it gives spatial features too. Raises GaekitError where the
    package or the weights are absent or do not fit.
    """

    width = WIDTH

    def __init__(self, setting: str, seed: int, owner: str, *, spatial: bool = False):
        self.spatial = SPATIAL if spatial else 0
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
        """uint8 images (B, 3, R, R) -> features (B, 2048), logits (B, 1008) and spatial features (B, 2023 or 0)."""
        self._network.to(pixel_B3RR.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return Features.parted(in_blocks(self._joined, pixel_B3RR), self.width, self.spatial)

    def _joined(self, pixel_B3RR: Tensor) -> Tensor:
        """All features of a block; spatial ones in TensorFlow's order, channels last."""
        seen: list[Tensor] = []
        branch: nn.Module = self._network.get_submodule("Mixed_6d.branch1x1")
        hook = branch.register_forward_hook(lambda _, __, map_BCHW: seen.append(map_BCHW[:, :CHANNELS]))
        with hook:
            feature_BF, logit_BK = self._network(pixel_B3RR)
        spatial_BS = seen[0].permute(0, 2, 3, 1).flatten(1) if self.spatial else feature_BF[:, :0]
        return Features(feature_BF, logit_BK, spatial_BS).joined()

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
