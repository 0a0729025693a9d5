"""What probes of trainings share: which held-out images they see, dealt out over ranks, and sums that do not depend on
how many ranks there are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaekit.data.images import ImageBatch, Images
from gaekit.parallel import World
from gaekit.seeds import generator_for
from gaekit.train.draws import ImageDraws
from gaekit.train.probing import Probed
from gaekit.train.progress import Reporter

BATCH = 64
"""Images of a forward pass, whatever the number of ranks: it decides the last bit."""
RAW, AVERAGED = "raw", "ema"
"""The weights as they are, and their average, in the names of scalars."""


def weights_of(training: Probed, name: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The module's weights, and then their average where there is one. Every rank must ask for all."""
    yield RAW, training.weights(name)
    if averaged := training.averaged(name):
        yield AVERAGED, averaged


class HeldOut:
    """The first `count` held-out images of an order drawn once for all: the same for every seed and every recipe of
    this data, so that their probes can be compared."""

    def __init__(self, images: Images, count: int, world: World, reporter: Reporter):
        self.images, self.world, self.reporter = images, world, reporter
        order = torch.randperm(len(images), generator=generator_for("held-out images", len(images)))
        self._chosen = order[:count].tolist()
        self._place = {index: place for place, index in enumerate(self._chosen)}

    def own_batches(self) -> Iterator[tuple[int, ImageBatch]]:
        """(its number, a batch) of those that are this rank's: of each `ranks` in turn, one. Images that cannot be read
        are left out, and a batch of which there is none."""
        spans = [self._chosen[first : first + BATCH] for first in range(0, len(self._chosen), BATCH)]
        own = spans[self.world.rank :: self.world.size]
        with self.reporter.slow_bar("held-out images", len(self._chosen), "images") as bar:
            for batch in self.images.in_order(BATCH, spans=own):
                yield self._place[int(batch.index_B[0])] // BATCH, batch
                bar.advance(min(len(batch) * self.world.size, len(self._chosen) - bar.done))


def draws_for(purpose: str, indices: Sequence[int], device: torch.device) -> ImageDraws:
    """Random numbers of held-out images, by their index: the same at every probe, in every training."""
    return ImageDraws(0, f"probe {purpose}", indices, device)


@dataclass(frozen=True)
class BatchMeans:
    """Means over the images of a batch, by name, still on the device, and how many images they are of."""

    count: int
    means: Mapping[str, Tensor]


def means_over_ranks(world: World, own: Mapping[int, BatchMeans]) -> dict[str, float]:
    """The means over all images, from those of every rank's batches by number: summed in their order, in float64, they
    are the same for any number of ranks. A name that only some batches have is of these alone."""
    sums = {
        number: (batch.count, {name: float(mean) * batch.count for name, mean in batch.means.items()})
        for number, batch in own.items()
    }
    everywhere = dict(sorted(pair for part in world.all_gather(sums) for pair in part.items()))
    names = dict.fromkeys(name for _, found in everywhere.values() for name in found)
    return {
        name: math.fsum(found[name] for _, found in everywhere.values() if name in found)
        / sum(count for count, found in everywhere.values() if name in found)
        for name in names
    }
