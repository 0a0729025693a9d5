"""A plugin whose components each give something else than their kind promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from gaekit.api import (
    Aligner,
    Component,
    Dataset,
    Decoder,
    Denoiser,
    Encoder,
    Latent,
    Loss,
    Metric,
    NoiseSampler,
    Perceptual,
    Prediction,
    Regularizer,
    Sampler,
    Teacher,
    TimeSampler,
    hookimpl,
)


class Split:
    def __init__(self, split: str, mode: str, first: int):
        self.split, self.mode, self.first = split, mode, first

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new(self.mode, (16, 16), 9 * index), self.first + index % 2

    def key(self, index: int) -> str:
        return f"{self.split}/{index}"


class LabelledSplit(Split):
    @property
    def labels(self) -> list[int]:
        return [self.first + index % 2 for index in range(len(self))]


class FaultySplit(Split):
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return [][index]  # type: ignore[no-any-return]


class FromOne(Dataset):
    """Counts its labels from 1."""

    name = "from_one"
    classes: tuple[str, ...] = ("a", "b")
    source: type[Split] = LabelledSplit
    mode, first = "RGB", 1

    def train(self) -> Any:
        return self.source("train", self.mode, self.first)

    def validation(self) -> Any:
        return self.source("validation", self.mode, self.first)

    def digest(self) -> str:
        return "0" * 64


class FromOneUnknown(FromOne):
    """Counts its labels from 1, and tells them with the images alone."""

    name = "from_one_unknown"
    source = Split


class Grey(FromOneUnknown):
    """Shows grey images."""

    name, mode, first = "grey", "L", 0


class Unread(FromOneUnknown):
    """Fails at its first image."""

    name, source = "unread", FaultySplit


class Vacant(FromOne):
    """Has a class without images."""

    name, classes, first = "vacant", ("a", "b", "none of it"), 0


class VacantUnknown(Vacant):
    """The same, told with the images alone."""

    name, source = "vacant_unknown", Split


class SmallTeacher(Teacher):
    """Sees small images, and is as it should be."""

    name = "small_teacher"
    feature_dim = 3

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(image_B3RR, self.grid)


class DoubleTeacher(SmallTeacher):
    """Sees in float64."""

    name = "double_teacher"

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return super().forward(image_B3RR).double()


class Patches(Encoder):
    """Gives one moment where more are asked for."""

    name = "patches"
    hidden_dim = 3

    def __init__(self, config: Any, *, image_size: int, stride: int, channels: int):
        super().__init__(config, image_size=image_size, stride=stride, channels=channels)
        self.project = nn.Conv2d(3, 1, stride, stride)

    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.avg_pool2d(image_B3RR, self.stride), self.project(image_B3RR)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.project.weight


class GreyDecoder(Decoder):
    """Makes images of one channel."""

    name = "grey_decoder"

    def __init__(self, config: Any, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid, stride=stride)
        self.project = nn.ConvTranspose2d(latent_dim, 1, stride, stride)

    def forward(self, latent_BDHW: Tensor) -> Tensor:
        return self.project(latent_BDHW)  # type: ignore[no-any-return]

    @property
    def last_layer(self) -> nn.Parameter:
        return self.project.weight


class PerImage(Aligner):
    """Gives a term for each image."""

    name = "per_image"

    def target(self, feature_BFHW: Tensor) -> Tensor:
        return feature_BFHW

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Any:
        return {"align": Loss(latent.mean_BDHW.square().mean((1, 2, 3)))}


class Bare(Regularizer):
    """Gives a tensor, not a Latent."""

    name = "bare"

    def forward(self, moments_BMHW: Tensor) -> Any:
        return moments_BMHW


class Narrow(NoiseSampler):
    """Forgets all channels but one."""

    name = "narrow"

    def perturb(self, latent: Latent, draws: Any) -> Tensor:
        return latent.mean_BDHW[:, :1]


class Steps(TimeSampler):
    """Counts to a thousand."""

    name = "steps"

    def times(self, draws: Any) -> Tensor:
        times: Tensor = 1000 * draws.uniform()
        return times


class OneChannel(Denoiser):
    """Predicts one channel, which any loss broadcasts."""

    name = "one_channel"

    def __init__(self, config: Any, *, channels: int, grid: int, classes: int):
        super().__init__(config, channels=channels, grid=grid, classes=classes)
        self.project = nn.Conv2d(channels, self.wanted, 1)

    @property
    def wanted(self) -> int:
        return 1

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Any:
        return Prediction(self.project(x_BDHW))


class DoubleDenoiser(OneChannel):
    """Predicts in float64."""

    name = "double_denoiser"

    @property
    def wanted(self) -> int:
        return self.channels

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Any:
        return Prediction(self.project(x_BDHW).double())


class RightDenoiser(DoubleDenoiser):
    """Is as it should be."""

    name = "right_denoiser"

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Any:
        return Prediction(self.project(x_BDHW))


class BareDenoiser(DoubleDenoiser):
    """Gives a tensor, not a Prediction."""

    name = "bare_denoiser"

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Any:
        return self.project(x_BDHW)


class FaultyDenoiser(DoubleDenoiser):
    """Multiplies what does not go together."""

    name = "faulty_denoiser"

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Any:
        return Prediction(x_BDHW @ torch.ones(99, 99))


class LateDenoiser(DoubleDenoiser):
    """Is right at first, and fails later."""

    name = "late_denoiser"
    calls = 0

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise KeyError("late")
        return Prediction(self.project(x_BDHW))


class DeafDenoiser(DoubleDenoiser):
    """Knows no label."""

    name = "deaf_denoiser"

    def forward(self, x_BDHW: Tensor, t_B: Tensor) -> Any:  # type: ignore[override]
        return Prediction(self.project(x_BDHW))


class BuiltOtherwise(DoubleDenoiser):
    """Wants a size that is not told."""

    name = "built_otherwise"

    def __init__(self, config: Any, *, channels: int, side: int):
        super().__init__(config, channels=channels, grid=side, classes=0)


class Mean(Sampler):
    """Samples one image for all."""

    name = "mean"

    def sample(self, field: Any, noise_BDHW: Tensor, *, draws: Any, on_step: Any = None) -> Tensor:
        return noise_BDHW.mean(0, keepdim=True)


class PerPixel(Perceptual):
    """Gives a distance for each pixel."""

    name = "per_pixel"

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        return (image_B3RR - other_B3RR).square()


class Hidden(Metric):
    """Gives its number as a tensor."""

    name = "hidden"
    needs = "pairs"

    def update(self, first_B: Tensor, second_B: Tensor) -> None:
        self.last = (first_B - second_B).abs().mean()

    def compute(self) -> Any:
        return {self.name: self.last}

    def protocol(self) -> dict[str, Any]:
        return {"implementation": "a test"}


class Averaged(Hidden):
    """Takes one row of all images."""

    name = "averaged"

    def extract(self, image_B3RR: Tensor) -> Tensor:
        return image_B3RR.mean(0)


class Unwritten(Hidden):
    """Has a protocol that JSON cannot write."""

    name = "unwritten"

    def compute(self) -> Any:
        return {self.name: 1.0}

    def protocol(self) -> dict[str, Any]:
        return {"file": Path("x")}


@hookimpl
def gaekit_components() -> list[type[Component]]:
    return [
        FromOne, FromOneUnknown, Grey, Unread, Vacant, VacantUnknown, SmallTeacher, DoubleTeacher, Patches, GreyDecoder,
        PerImage, Bare, Narrow, Steps, OneChannel, DoubleDenoiser, BareDenoiser, FaultyDenoiser, LateDenoiser,
        DeafDenoiser, RightDenoiser, BuiltOtherwise, Mean, PerPixel, Hidden, Averaged, Unwritten,
    ]  # fmt: skip
