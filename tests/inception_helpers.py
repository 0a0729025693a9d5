"""Stand-ins for the Inception network, images to judge, and torch-fidelity's own numbers on them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch_fidelity
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from gaekit.api import Metric
from gaekit.api.metrics import Features, in_blocks
from gaekit_metrics import gaekit_components

SIDE = 32
WIDTH, CLASSES, SPATIAL = 12, 7, 9
SINGLE = ("fid", "sfid", "inception_score", "precision", "recall")


def filters(outputs: int, side: int, seed: int) -> Tensor:
    """Fixed random filters on RGB."""
    return torch.randn(outputs, 3, side, side, generator=torch.Generator().manual_seed(seed))


def tiny_features(pixel_B3RR: Tensor) -> tuple[Tensor, Tensor]:
    """(features, logits) of one rectified layer: enough to tell images apart, quick, in float32 like the network's."""
    found = tiny(pixel_B3RR)
    return found.feature_BF, found.logit_BK


def tiny(pixel_B3RR: Tensor) -> Features:
    """The same with spatial features: the mean of a channel over 3 x 3 regions."""
    return Features.parted(in_blocks(_layer, pixel_B3RR), WIDTH, SPATIAL)


def _layer(pixel_B3RR: Tensor) -> Tensor:
    map_BWHW = functional.conv2d(pixel_B3RR.float() / 64 - 2, filters(WIDTH, 5, 0) / 5, stride=3).relu()
    hidden, spatial = map_BWHW.mean((2, 3)), functional.adaptive_avg_pool2d(map_BWHW[:, 0], 3).flatten(1)
    weight = torch.randn(WIDTH, CLASSES, generator=torch.Generator().manual_seed(1))
    logits = 2 * (hidden[..., None] * weight).sum(1)  # a product of few rows rounds each row in its own way
    return Features(hidden, logits, spatial).joined()


class Tiny:
    """An extractor that counts the images that it looked at."""

    width, spatial = WIDTH, SPATIAL

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, pixel_B3RR: Tensor) -> Features:
        assert pixel_B3RR.dtype == torch.uint8
        self.seen += len(pixel_B3RR)
        return tiny(pixel_B3RR)

    def protocol(self) -> dict[str, Any]:
        return {"network": "tiny"}


class FidelityTiny(FeatureExtractorBase):  # type: ignore[misc]
    """The same for torch-fidelity, which computes in the features' own type: float32's values, as float64."""

    def __init__(self, name: str, features_list: list[str], **keywords: Any):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("feature", "logit", "spatial")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logit" if metric == "isc" else "feature"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, pixel_B3RR: Tensor) -> tuple[Tensor, ...]:
        found = dict(
            zip(("feature", "logit", "spatial"), (*tiny_features(pixel_B3RR), tiny(pixel_B3RR).spatial_BS), strict=True)
        )
        return tuple(found[name].double() for name in self.features_list)


class Pictures(Dataset):  # type: ignore[type-arg]
    """uint8 images for torch-fidelity."""

    def __init__(self, pixel_B3RR: Tensor):
        self.pixel_B3RR = pixel_B3RR

    def __len__(self) -> int:
        return len(self.pixel_B3RR)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixel_B3RR[index]


@cache
def _registered() -> str:
    torch_fidelity.register_feature_extractor("gaekit-tiny", FidelityTiny)
    return "gaekit-tiny"


def fidelity(fake: Tensor, real: Tensor, **what: Any) -> dict[str, float]:
    """torch-fidelity's numbers of generated against real uint8 images, by the same features."""
    found: dict[str, float] = torch_fidelity.calculate_metrics(
        input1=Pictures(fake), input2=Pictures(real), feature_extractor=_registered(), cuda=False, cache=False,
        verbose=False, batch_size=16, save_cpu_ram=True, **what,  # no worker processes
    )  # fmt: skip
    return found


@cache
def crops(name: str, step: int = 32) -> Tensor:
    """Crops of 32 x 32 of a photo, uint8: 60 for a step of 32."""
    photo = torch.tensor(load_sample_image(f"{name}.jpg")).permute(2, 0, 1)[:, :384, :320]
    return photo.unfold(1, SIDE, step).unfold(2, SIDE, 2 * step).permute(1, 2, 0, 3, 4).reshape(-1, 3, SIDE, SIDE)


def to_float(pixel_B3RR: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return pixel_B3RR / 127.5 - 1


def make(use: str, extractor: Any = None, side: int = SIDE, **settings: Any) -> Metric:
    """The metric with an injected extractor."""
    cls: Any = next(c for c in gaekit_components() if c.name == use)
    made: Metric = cls(cls.Config(use=use, **settings), image_size=side, classes=(), extractor=extractor or Tiny())
    return made


def measure(made: Metric, fake: Tensor, real: Tensor | None = None, cut: int = 64) -> dict[str, float]:
    """Its numbers on uint8 images, given in batches of `cut`."""
    for batch in torch.split(real if real is not None else fake[:0], cut) if made.split is not None else ():
        made.reference(made.extract(to_float(batch)), torch.zeros(len(batch)))
    made.ready(torch.device("cpu"))
    for batch in torch.split(fake, cut):
        made.update(made.extract(to_float(batch)), torch.zeros(len(batch)))
    return made.compute()
