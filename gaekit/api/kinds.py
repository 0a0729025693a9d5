"""The kinds of component. Shape suffixes: B batch, R image side, H W latent grid, F teacher width, P that of its pooled
embedding, E encoder width, M moments, D latent width. Images float32 in [-1, 1]; t = 0 noise, t = 1 data. Sizes arrive
as keywords when a component is built: the recipe says each once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gaekit.api.component import Component
from gaekit.api.dataset import Dataset
from gaekit.api.metric import Metric
from gaekit.api.tracking import Tracker
from gaekit.flow.process import Quantity as Quantity
from gaekit.values import Draws, Latent, Losses, Prediction

if TYPE_CHECKING:
    from gaekit.flow.field import Field


class ModuleComponent(Component, nn.Module, ABC):
    """A component that is a torch module. What it answers first is looked at, once: whether it is what its kind
    promises."""

    first_call: Callable[[Component, Any, Any, Any], None] | None = None

    def __init__(self, config: Any):
        nn.Module.__init__(self)
        self.config = config

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """`forward` with torch's hooks, as of any module."""
        out = super().__call__(*inputs, **keywords)
        # Here, not in a hook: `module.compile()` would trace it, and compile again once it has gone.
        if self.first_call is not None and not torch.compiler.is_compiling():
            look, self.first_call = self.first_call, None
            look(self, out, inputs, keywords)
        return out


class Teacher(ModuleComponent):
    """A frozen vision model whose patch features shape the latent space. It owns its input size and its mean/std."""

    kind = "teacher"
    feature_dim: int
    input_size: int | None = None
    """Side in pixels to which it resizes images, where it does: at this size it takes them as they are."""
    pooled_dim: int | None = None
    """P, the width of `pooled`; None where it has no such embedding."""

    def __init__(self, config: Any, *, grid: int):
        super().__init__(config)
        self.grid = grid

    @classmethod
    def width(cls, config: Any) -> int | None:
        """F without loading weights, for `gaekit plan`; None where it cannot be told."""
        return None

    @abstractmethod
    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] of any square size -> feature_BFHW, H = W = `grid`, float32."""

    def pooled(self, image_B3RR: Tensor) -> Tensor:
        """The same images -> what the model itself sums each up in, (B, P), float32: its class token, or what its head
        pools. For metrics; a teacher need not have it."""
        raise TypeError(f"teacher '{self.name}' has no pooled embedding")


class Encoder(ModuleComponent):
    """Image to latent moments."""

    kind = "encoder"
    hidden_dim: int

    def __init__(self, config: Any, *, image_size: int, stride: int, channels: int):
        super().__init__(config)
        self.image_size, self.stride, self.channels = image_size, stride, channels

    @abstractmethod
    def forward(self, image_B3RR: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] -> (hidden_BEHW: the features before the last projection, moments_BMHW: what the
        regularizer reads)."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight that makes the moments; adaptive alignment weights compare gradients there."""


class Decoder(ModuleComponent):
    """Latent to image."""

    kind = "decoder"

    def __init__(self, config: Any, *, latent_dim: int, grid: int, stride: int):
        super().__init__(config)
        self.latent_dim, self.grid, self.stride = latent_dim, grid, stride

    @abstractmethod
    def forward(self, latent_BDHW: Tensor) -> Tensor:
        """-> image_B3RR, R = grid * stride, around [-1, 1], not clamped."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight that makes the pixels; adaptive adversarial weights compare gradients there."""


class Aligner(ModuleComponent):
    """Pulls the latent space towards the teacher's features.

    `fit` says how it prepares: "train" (its `fit_losses` are minimised in the semantic stage), "closed" (`fit_closed`
    once) or None. What it learns there may not depend on `hidden_dim`. Parameters that still require gradients
    afterwards train with the autoencoder. `adaptive` says whether some of its terms are (`Loss.adaptive`): strategies
    that shard the encoder's last layer cannot run them. Targets and terms are called outside of autocast.
    """

    kind = "aligner"
    fit: ClassVar[Literal["train", "closed"] | None] = None
    adaptive: bool = False
    needs_teacher: ClassVar[bool] = True

    def __init__(self, config: Any, *, feature_dim: int, latent_dim: int, hidden_dim: int, grid: int):
        super().__init__(config)
        self.feature_dim, self.latent_dim, self.hidden_dim, self.grid = feature_dim, latent_dim, hidden_dim, grid

    def fit_losses(self, feature_BFHW: Tensor) -> Losses:
        """The terms that the semantic stage minimises (fit = "train")."""
        raise TypeError(f"aligner '{self.name}' has fit = {self.fit!r}: it is not trained")

    def fit_closed(self, features: Iterable[Tensor]) -> None:
        """Solve from batches of feature_BFHW in one pass (fit = "closed"), storing the result in buffers."""
        raise TypeError(f"aligner '{self.name}' has fit = {self.fit!r}: it is not solved")

    @abstractmethod
    def target(self, feature_BFHW: Tensor) -> Tensor:
        """What the features ask of the latent; no gradient flows into it."""

    @abstractmethod
    def losses(self, hidden_BEHW: Tensor, latent: Latent, target: Tensor) -> Losses:
        """The alignment terms of the autoencoder's loss, with their weights."""


class Regularizer(ModuleComponent):
    """Bounds the latent: normalisation, or a penalty.

    It is a function of the moments alone, since caches, reconstructions and evaluation are made by it too: it has no
    `draws`. What is random while the autoencoder trains is the noise's business (`NoiseSampler`), to which it tells the
    scale by `Latent.std_BDHW`.
    """

    kind = "regularizer"

    def __init__(self, config: Any, *, latent_dim: int, grid: int):
        super().__init__(config)
        self.latent_dim, self.grid = latent_dim, grid

    @property
    def channels(self) -> int:
        """M, the number of moment channels that the encoder must give."""
        return self.latent_dim

    @abstractmethod
    def forward(self, moments_BMHW: Tensor) -> Latent:
        """The latent with its noise scale and its penalty."""


class NoiseSampler(Component, ABC):
    """What the decoder sees while training: usually mean + level * std * eps."""

    kind = "noise"

    def __init__(self, config: Any):
        self.config = config

    @abstractmethod
    def perturb(self, latent: Latent, draws: Draws) -> Tensor:
        """-> z_BDHW."""


class TimeSampler(Component, ABC):
    """Which times a denoiser is trained at; `dimension` = D * H * W of a latent, for shifts derived from it."""

    kind = "times"

    def __init__(self, config: Any, *, dimension: int):
        self.config, self.dimension = config, dimension

    @abstractmethod
    def times(self, draws: Draws) -> Tensor:
        """-> t_B in [0, 1]."""


class Denoiser(ModuleComponent):
    """The diffusion network. `classes` = K; label K is the null class; K = 0 is unconditional (every label is 0)."""

    kind = "denoiser"
    predicts: Quantity = "velocity"
    learned_variance: bool = False

    def __init__(self, config: Any, *, channels: int, grid: int, classes: int):
        super().__init__(config)
        self.channels, self.grid, self.classes = channels, grid, classes

    @abstractmethod
    def forward(self, x_BDHW: Tensor, t_B: Tensor, label_B: Tensor, *, taps: tuple[str, ...] = ()) -> Prediction:
        """The prediction at time t in [0, 1]; `taps` name hidden states to return: "block.3"."""


class Sampler(Component, ABC):
    """Integrates a field from noise to data.

    `needs` names what it evaluates: "velocity", "noise", "score" or "data", quantities of `gaekit.api.flow.Field` at
    (x, t); "steps" where it walks a chain's own integer steps (`gaekit.api.flow.Ddpm`), "variance" where it reads a
    learned variance. A recipe whose path or denoiser does not offer them is refused before anything is run.
    `field.process` has the path's `alpha(t)` and `sigma(t)`: x_t = alpha * data + sigma * noise.
    """

    kind = "sampler"
    needs: ClassVar[frozenset[str]] = frozenset({"velocity"})

    def __init__(self, config: Any):
        self.config = config

    @abstractmethod
    def sample(
        self, field: Field, noise_BDHW: Tensor, *, draws: Draws, on_step: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """noise_BDHW at t = 0 -> latent_BDHW at t = 1, float32. `on_step(done, total)` after each step. Memory does not
        grow with the steps."""


class Perceptual(ModuleComponent):
    """A distance between images that stands in for a person's.

    One is real, in [-1, 1], the other a decoder's, around [-1, 1] and not clamped.
    """

    kind = "perceptual"

    def __init__(self, config: Any, *, image_size: int):
        super().__init__(config)
        self.image_size = image_size

    @abstractmethod
    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        """-> distance_B >= 0, differentiable in both arguments."""


KINDS: dict[str, type[Component]] = {
    cls.kind: cls
    for cls in (
        Dataset, Teacher, Aligner, Encoder, Decoder, Regularizer, NoiseSampler, Perceptual, TimeSampler,
        Denoiser, Sampler, Metric, Tracker,
    )
}  # fmt: skip
"""Every kind by its name in recipes."""
