"""`check_component` finds each broken promise, and says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from gaekit.api import (
    Aligner,
    Asset,
    Component,
    ComponentConfig,
    Dataset,
    Decoder,
    Denoiser,
    Encoder,
    Latent,
    LocalFile,
    Loss,
    Losses,
    Metric,
    NoiseSampler,
    Perceptual,
    Prediction,
    Regularizer,
    Sampler,
    Teacher,
    TimeSampler,
    Tracker,
)
from gaekit.api.nn import run_block
from gaekit.testing import check_component


class RightNoise(NoiseSampler):
    """Adds noise."""

    name = "right"

    def perturb(self, latent: Latent, draws: Any) -> Tensor:
        noise: Tensor = draws.normal(*latent.mean_BDHW.shape[1:])
        return latent.mean_BDHW + latent.std_BDHW * noise


class GlobalNoise(RightNoise):
    """Draws from the global generator."""

    name = "global"

    def perturb(self, latent: Latent, draws: Any) -> Tensor:
        return latent.mean_BDHW + torch.randn_like(latent.mean_BDHW)


class DetachedNoise(RightNoise):
    """Cuts the gradient."""

    name = "detached"

    def perturb(self, latent: Latent, draws: Any) -> Tensor:
        return super().perturb(latent, draws).detach().requires_grad_()


class Undescribed(RightNoise):
    """Has a setting that says nothing."""

    name = "undescribed"

    class Config(ComponentConfig):
        sigma: float = 1.0


class Open(RightNoise):
    """Takes any key."""

    name = "open"

    class Config(ComponentConfig):
        model_config = ConfigDict(extra="allow")


class WideRegularizer(Regularizer):
    """Gives the wrong width."""

    name = "wide"

    @property
    def channels(self) -> int:
        return 2 * self.latent_dim

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(moments_BMHW)


class SilentNorm(Regularizer):
    """Holds the latent on the unit sphere and does not say so: noise and targets keep the scale of unit RMS."""

    name = "silent_norm"
    says: ClassVar[dict[str, float]] = {}

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(nn.functional.normalize(moments_BMHW, dim=1), **self.says)


class HalfSilentNorm(SilentNorm):
    """Tells the unit of noise alone."""

    name = "half_silent_norm"

    def __init__(self, config: Any, *, latent_dim: int, grid: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid)
        self.says = {"std_BDHW": latent_dim**-0.5}  # type: ignore[misc]


class Forgetful(Regularizer):
    """Has a state that is not in its state dict."""

    name = "forgetful"
    made = 0

    def __init__(self, config: Any, *, latent_dim: int, grid: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid)
        Forgetful.made += 1
        self.shift = Forgetful.made

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(moments_BMHW + self.shift)


class LateTimes(TimeSampler):
    """Gives times beyond the end."""

    name = "late"

    def times(self, draws: Any) -> Tensor:
        times: Tensor = 2 * draws.uniform()
        return times


class Trainable(Teacher):
    """Can be trained."""

    name = "trainable"
    feature_dim = 5

    def __init__(self, config: Any, *, grid: int):
        super().__init__(config, grid=grid)
        self.project = nn.Conv2d(3, 5, 1)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(self.project(image_B3RR), self.grid)


class Restless(Trainable):
    """Is frozen, and drops out when its owner trains."""

    name = "restless"

    def __init__(self, config: Any, *, grid: int):
        super().__init__(config, grid=grid)
        self.requires_grad_(False)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(image_B3RR), 0.5, self.training)


class LooseEncoder(Encoder):
    """Names a last layer that is not the last."""

    name = "loose"
    hidden_dim = 3

    def __init__(self, config: Any, *, image_size: int, stride: int, channels: int):
        super().__init__(config, image_size=image_size, stride=stride, channels=channels)
        self.patch = nn.Conv2d(3, channels, stride, stride)
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.avg_pool2d(image_B3RR, self.stride), self.patch(image_B3RR)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.unused


class SmallDecoder(Decoder):
    """Makes images that are too small."""

    name = "small"

    def __init__(self, config: Any, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config, latent_dim=latent_dim, grid=grid, stride=stride)
        self.weight = nn.Parameter(torch.ones(3, latent_dim, 1, 1))

    def forward(self, latent_BDHW: Tensor) -> Tensor:
        return nn.functional.conv2d(latent_BDHW, self.weight)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.weight


class Leaky(Aligner):
    """Lets the gradient into its target."""

    name = "leaky"
    fit = "train"

    def __init__(self, config: Any, **sizes: int):
        super().__init__(config, **sizes)
        self.down = nn.Conv2d(self.feature_dim, self.latent_dim, 1)

    def fit_losses(self, feature_BFHW: Tensor) -> Losses:
        return {"fit": Loss(self.down(feature_BFHW).square().mean())}

    def target(self, feature_BFHW: Tensor) -> Tensor:
        target: Tensor = self.down(feature_BFHW)
        return target

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        return {"align": Loss((latent.mean_BDHW - target).square().mean())}


class Undeclared(Leaky):
    """Has adaptive terms and does not say so."""

    name = "undeclared"

    def target(self, feature_BFHW: Tensor) -> Tensor:
        return super().target(feature_BFHW).detach()

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        return {"align": Loss((latent.mean_BDHW - target).square().mean(), adaptive=True)}


class Aloof(Leaky):
    """Pulls on nothing."""

    name = "aloof"

    def target(self, feature_BFHW: Tensor) -> Tensor:
        return super().target(feature_BFHW).detach()

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        return {"align": Loss((latent.mean_BDHW.detach() - target + 0 * hidden_BEHW.sum()).square().mean())}


class Entangled(Aloof):
    """Fits something that depends on the encoder's width."""

    name = "entangled"

    def __init__(self, config: Any, **sizes: int):
        super().__init__(config, **sizes)
        self.wide = nn.Parameter(torch.ones(self.hidden_dim))

    def fit_losses(self, feature_BFHW: Tensor) -> Losses:
        return {"fit": Loss(super().fit_losses(feature_BFHW)["fit"].value * self.wide.mean())}

    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        return {"align": Loss((latent.mean_BDHW - target).square().mean())}


class Deaf(Denoiser):
    """Does not hear what time it is."""

    name = "deaf"

    def __init__(self, config: Any, *, channels: int, grid: int, classes: int):
        super().__init__(config, channels=channels, grid=grid, classes=classes)
        self.embed = nn.Embedding(classes + 1, channels)

    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Prediction:
        out = x_BDHW + self.embed(label_B)[:, :, None, None]
        return Prediction(out, features={name: out.flatten(2).mT for name in taps})


class Lazy(Sampler):
    """Returns the noise."""

    name = "lazy"

    def sample(self, field: Any, noise_BDHW: Tensor, *, draws: Any, on_step: Any = None) -> Tensor:
        if on_step:
            on_step(1, 1)
        return noise_BDHW


class Negative(Perceptual):
    """Is a similarity."""

    name = "negative"

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        return -(image_B3RR - other_B3RR).square().mean((1, 2, 3))


class BatchMean(Metric):
    """Averages batches, however large they are."""

    name = "batch_mean"
    needs = "pairs"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, **sizes)
        self.values: list[float] = []

    def update(self, first_B: Tensor, second_B: Tensor) -> None:
        self.values.append((first_B - second_B).abs().mean().item())

    def compute(self) -> dict[str, float]:
        return {self.name: sum(self.values) / len(self.values)}

    def protocol(self) -> dict[str, Any]:
        return {"implementation": "this test"}


class Nameless(BatchMean):
    """Has no protocol."""

    name = "nameless"

    def compute(self) -> dict[str, float]:
        return {self.name: 1.0}

    def protocol(self) -> dict[str, Any]:
        return {}


class Picky(Tracker):
    """Wants pictures every time."""

    name = "picky"

    def log(self, step: int, scalars: Any, images: Any) -> None:
        images["images"]

    def close(self) -> None:
        pass


class FixedPoint(NoiseSampler):
    """Has settings that do not survive JSON."""

    name = "fixed"

    class Config(ComponentConfig):
        place: Any = Field(default=Path("x"), description="anything")

    perturb = RightNoise.perturb


class Squares:
    """Ten plain images."""

    def __init__(self, split: str):
        self.split, self.labels = split, [index % 2 for index in range(10)]

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4)), index % 2

    def key(self, index: int) -> str:
        return f"{self.split}/{index}"


class Plain(Dataset):
    """Plain images."""

    name = "plain"
    classes = ("a", "b")
    source: type[Squares] = Squares

    def train(self) -> Squares:
        return self.source("train")

    def validation(self) -> Squares:
        return self.source("validation")

    def digest(self) -> str:
        return "0" * 64


class RestlessSquares(Squares):
    epochs = 0

    def order(self, seed: int, epoch: int) -> list[int]:
        self.epochs += 1
        return list(range(self.epochs % 10, 10)) + list(range(self.epochs % 10))


class RepeatingSquares(Squares):
    def order(self, seed: int, epoch: int) -> list[int]:
        return [0] * 10


class MislabelledSquares(Squares):
    def __init__(self, split: str):
        super().__init__(split)
        self.labels = [0] * 10


class BoundSquares(Squares):
    def __init__(self, split: str):
        super().__init__(split)
        self.rule = lambda: 0


class RestlessOrder(Plain):
    """Orders an epoch otherwise each time."""

    name, source = "restless_order", RestlessSquares


class Repeating(Plain):
    """Visits one image again and again."""

    name, source = "repeating", RepeatingSquares


class Mislabelled(Plain):
    """Knows other labels than it gives."""

    name, source = "mislabelled", MislabelledSquares


class Bound(Plain):
    """Cannot be handed to a worker process."""

    name, source = "bound", BoundSquares


class Dropping(Regularizer):
    """Drops out while it trains."""

    name = "dropping"

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(nn.functional.dropout(moments_BMHW, 0.5, self.training))


class Detached(Regularizer):
    """Cuts the gradient."""

    name = "detached"

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(moments_BMHW.detach())


class DoubleRegularizer(Regularizer):
    """Computes in float64."""

    name = "double"

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(moments_BMHW.double())


class Overflowing(Regularizer):
    """Is infinite where products are taken in float16, not in float32."""

    name = "overflowing"

    def forward(self, moments_BMHW: Tensor) -> Latent:
        product = torch.einsum("bdhw,de->behw", moments_BMHW, torch.eye(self.latent_dim))
        large = product if product.dtype == torch.float32 else product / 0
        return Latent(large)


class Recomputing(Regularizer):
    """Says that it recomputes its blocks, and does not."""

    name = "recomputing"
    checkpointing = False

    def __init__(self, config: Any, **sizes: int):
        super().__init__(config, **sizes)
        self.block = nn.Conv2d(self.latent_dim, self.latent_dim, 1)

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(self.block(moments_BMHW))


class StrangeRegions(Recomputing):
    """Names a block that is not its own."""

    name = "strange_regions"

    def regions(self) -> list[nn.Module]:
        return [nn.Conv2d(1, 1, 1)]


class Recomputed(Recomputing):
    """Recomputes its block, and gives other numbers."""

    name = "recomputed"

    def forward(self, moments_BMHW: Tensor) -> Latent:
        if self.checkpointing:
            return Latent(2 * self.block(self.block(moments_BMHW)))
        return Latent(self.block(moments_BMHW))


class Forgotten(Regularizer):
    """Needs a file, and does not say which by `external`."""

    name = "forgotten"

    @classmethod
    def assets(cls, config: Any) -> tuple[Asset, ...]:
        return (LocalFile("a file", "x"),)

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(moments_BMHW)


class Numbered(Regularizer):
    """Has layers, of which it asks for one that is not there."""

    name = "numbered"

    class Config(ComponentConfig):
        layer: int = Field(default=0, description="of three")

    @classmethod
    def external(cls, config: Any) -> str:
        return ("a", "b", "c")[config.layer]

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(moments_BMHW)


class PathProtocol(BatchMean):
    """States what JSON cannot write."""

    name = "path_protocol"

    def compute(self) -> dict[str, float]:
        return {self.name: 1.0}

    def protocol(self) -> dict[str, Any]:
        return {"file": Path("x")}


class Needy(Lazy):
    """Needs what no field has."""

    name = "needy"
    needs = frozenset({"velocity", "acceleration"})


def test_what_keeps_its_promises_passes() -> None:
    check_component(RightNoise)
    check_component(Plain)


@pytest.mark.parametrize(
    ("cls", "promise"),
    [
        (GlobalNoise, "randomness comes from `draws`"),
        (DetachedNoise, "the gradient reaches the mean"),
        (Undescribed, "setting 'sigma' has a description"),
        (Open, "Config refuses unknown keys"),
        (FixedPoint, "Config survives JSON"),
        (WideRegularizer, "the latent's mean has shape"),
        (SilentNorm, "a norm that holds the latent's mean at RMS .* says so in Latent.scale, not 1.0"),
        (HalfSilentNorm, "says so in Latent.scale, not 1.0"),
        (Forgetful, "a state dict restores the module"),
        (LateTimes, r"t lies in \[0, 1\]"),
        (Trainable, "a teacher is frozen"),
        (Restless, "a teacher stays in eval mode"),
        (LooseEncoder, "the gradient reaches last_layer"),
        (SmallDecoder, "the image has shape"),
        (Leaky, "no gradient flows into the target"),
        (Undeclared, "an aligner with adaptive terms says so"),
        (Aloof, "alignment pulls on the hidden or the latent"),
        (Entangled, "what is fitted does not depend on hidden_dim"),
        (Deaf, "the prediction depends on t"),
        (Lazy, "have its mean and std"),
        (Negative, "a distance is not negative"),
        (BatchMean, "does not depend on how batches are cut"),
        (Nameless, "a metric states its protocol"),
        (Repeating, "an order visits each image once"),
        (RestlessOrder, "an order depends on seed and epoch alone"),
        (Mislabelled, "`labels` are those that come with the images"),
        (Bound, "a split can be pickled, for worker processes"),
        (Dropping, "draws from the global generator of torch in training mode"),
        (Detached, "the gradient reaches the moments; gave: a result that is detached"),
        (DoubleRegularizer, "the latent's mean is float64, promised float32"),
        (Overflowing, "finite numbers under autocast to bfloat16"),
        (Recomputing, "with `checkpointing`, blocks are run again in the backward pass"),
        (StrangeRegions, "`regions` gives blocks of the module"),
        (Recomputed, "recomputed blocks give the same gradients"),
        (Forgotten, "what needs files says by `external` which they are"),
        (Numbered, "`external` of layer = 999983 gives or raises a GaekitError; gave: IndexError"),
        (PathProtocol, "a protocol of JSON values; gave: what JSON cannot write"),
        (Needy, "`needs` are of .*; gave: acceleration"),
    ],
)
def test_a_broken_promise_is_named(cls: type[Component], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_component(cls)


class Layered(Regularizer):
    """Drops out by a layer that shows."""

    name = "layered"
    checkpointing = False

    def __init__(self, config: Any, **sizes: int):
        super().__init__(config, **sizes)
        self.block = nn.Sequential(nn.Conv2d(self.latent_dim, self.latent_dim, 1), nn.Dropout(0.5))

    def forward(self, moments_BMHW: Tensor) -> Latent:
        return Latent(run_block(self.block, moments_BMHW, checkpointing=self.checkpointing))


def test_layers_of_dropout_are_allowed_also_in_blocks_that_are_recomputed() -> None:
    check_component(Layered)


def test_settings_that_do_not_fit_are_told() -> None:
    with pytest.raises(AssertionError, match="these settings do not fit Config of noise 'right': sigma: Extra inputs"):
        check_component(RightNoise, sigma=2)


def test_a_tracker_without_pictures_must_not_fail() -> None:
    with pytest.raises(KeyError):
        check_component(Picky)
