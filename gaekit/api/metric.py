"""The kind of component that gives numbers. Shape suffixes as in `kinds`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gaekit.api.component import Component
from gaekit.intervals import Interval
from gaekit.values import Encoded


class Metric(Component, ABC):
    """A number about reconstructions ("pairs"), generated images ("samples") or the latents ("latents").

    pairs:   update(real, fake) over the held-out split and its reconstructions, both in [-1, 1], clamped to uint8's
    grid.
    samples: reference(image, label_B) over the real images of `split` (None: it asks for none), then
    update(image, label_B) over the generated, both in [-1, 1].
    latents: reference(latent_BDHW, label_B) over the means of `split` (None: it asks for none), then update(row,
    label_B) over the held-out split's.

    Of pairs and samples it is given what its `extract` makes of the images, which is the images themselves unless it
    says otherwise: a network's features are computed by the ranks that hold the images, and by one rank made a number
    of, in the order of the data. Between references and updates, `ready` is called once. Samples may come in several
    series: a copy of the metric judges each, so what is done in `ready` is done once for all of them, and what `update`
    does first, once for each. What it took in of the real images is kept for later runs if `reference_state` tells it.

    Of held-out latents a metric is given what its `extract_latent` makes of them, which is the latents themselves
    unless it says otherwise. There it has the images too, and the decoder: what it decodes or has a network look at is
    computed by the ranks that hold the images. What `reference_state` tells after the last `reference` is loaded on
    every rank before the first `extract_latent`, which may so depend on it.

    A metric of samples whose `reconstructions` is true also compares with what the run's autoencoder makes of the real
    images of `split`: after each `reference`, `reference_reconstruction` is handed the same images' reconstructions,
    from the latent's mean. They are kept apart, for runs with the same autoencoder, if `reconstruction_state` tells
    them; the real images' are then kept for runs with any. One whose `held_out` is true also compares with the held-out
    images, which come to `reference_held_out` after all of `split`, and are kept if `held_out_state` tells them.

    Where `needs_classes` and the data has fewer than two, the metric is left out, and the run says so. Its numbers are
    better the lower they are, but for those whose names begin as one of `higher` does: they are better the higher.
    """

    kind = "metric"
    needs: ClassVar[Literal["pairs", "samples", "latents"]]
    needs_classes: ClassVar[bool] = False
    higher: ClassVar[tuple[str, ...]] = ()
    split: Literal["train", "validation"] | None = "train"
    reconstructions: bool = False
    held_out: bool = False

    def __init__(self, config: Any, *, image_size: int, classes: tuple[str, ...]):
        self.config, self.image_size, self.classes = config, image_size, classes

    def extract(self, image_B3RR: Tensor) -> Tensor:
        """What the metric looks at of images (B, 3, R, R) in [-1, 1], a row each (B, ...), whatever images are beside
        them; by default the images. Rows go to another rank, so they should be smaller."""
        return image_B3RR

    @property
    def fewest(self) -> int:
        """Of how many images, on either side, its numbers are worth telling; 1 by default. A stage tells them also of
        fewer, with what `protocol` says of it; `gaekit evaluate` refuses, unless it is asked to tell them too."""
        return 1

    def extract_latent(self, seen: Encoded) -> Tensor:
        """What a metric of latents looks at of held-out images, a row each (B, ...), whatever images are beside them;
        by default the latents' means. Rows go to another rank, so they should be small."""
        return seen.latent_BDHW

    def reference_state(self) -> dict[str, Tensor] | None:
        """All that `reference` took in, as tensors by name. Of real images it is kept for metrics of the same settings,
        revision and weights on the same images, and None, as by default, if it cannot be. Of latents it is what
        `extract_latent` needs of them, None if it needs nothing."""
        return None

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `reference_state` told, in place of every call of `reference`."""
        raise TypeError(f"metric '{self.name}' keeps no reference")

    def reference(self, real_B: Tensor, label_B: Tensor) -> None:
        """Take in a batch of what the metric compares with; metrics of pairs need none."""
        raise TypeError(f"metric '{self.name}' takes no reference")

    def reconstruction_state(self) -> dict[str, Tensor] | None:
        """All that `reference_reconstruction` took in, as `reference_state` tells of the real images."""
        return None

    def load_reconstruction(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `reconstruction_state` told, in place of every call of `reference_reconstruction`."""
        raise TypeError(f"metric '{self.name}' keeps no reconstructions")

    def reference_reconstruction(self, fake_B: Tensor, label_B: Tensor) -> None:
        """Take in what `extract` makes of a batch of reconstructions of real images; for `reconstructions`."""
        raise TypeError(f"metric '{self.name}' takes no reconstructions")

    def held_out_state(self) -> dict[str, Tensor] | None:
        """What `reference_held_out` took in, or what was made of it and of the reference, as tensors by name."""
        return None

    def load_held_out(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `held_out_state` told, in place of every call of `reference_held_out`."""
        raise TypeError(f"metric '{self.name}' keeps no held-out images")

    def reference_held_out(self, real_B: Tensor, label_B: Tensor) -> None:
        """Take in what `extract` makes of a batch of held-out images; for `held_out`."""
        raise TypeError(f"metric '{self.name}' takes no held-out images")

    def ready(self, device: torch.device) -> None:
        """Every reference is in and no `update` yet: read a reference of one's own on `device`. Nothing by default."""

    @abstractmethod
    def update(self, first_B: Tensor, second_B: Tensor) -> None:
        """Take in a batch: (real, fake) for pairs, (what is judged, its labels) otherwise."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The numbers, by name: usually {self.name: value}. Independent of how batches were cut."""

    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval around each number that has one, by its name; called after `compute`. None by default.

        It covers what the number would be on average over other images of the same making, as many of them, against
        the same real images. `gaekit.api.metrics` has what makes them: `mean_interval`, `share_interval` and others.
        """
        return {}

    def per_image(self) -> dict[str, Tensor]:
        """Of each number that is a mean over held-out images, every image's own value (N,), in the order of the data,
        by its name; called after `compute`. It is kept, and two runs are compared image by image. None by default."""
        return {}

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What one must know to compare the number: implementation, feature extractor and its hash, settings. JSON
        values."""
