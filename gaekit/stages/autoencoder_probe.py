"""What a probe of the autoencoder's training measures: held-out images through it, clean and under the noise that it
trains with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaekit.api import Latent
from gaekit.data.images import ImageBatch, to_uint8
from gaekit.recipe.probe import AutoencoderProbe
from gaekit.stages.features import teacher_features
from gaekit.stages.held_out import AVERAGED, RAW, BatchMeans, HeldOut, draws_for, means_over_ranks, weights_of
from gaekit.stages.job import Job
from gaekit.stages.judging import Judged, extracted, handed, is_higher_better, judges_of, received, results
from gaekit.train.probing import Probe, Probed

if TYPE_CHECKING:
    from gaekit.stages.autoencoder import Autoencoding

NAME = "autoencoder"
"""The module in its training."""
LOSS, PAIRS, NOISED = "loss", "reconstruction", "/noised"
"""How the names of scalars begin, of the loss and of metrics, and how they end where the decoder sees noise."""


def probe_of(job: Job, network: Callable[[], Autoencoding]) -> Probe | None:
    """The probe that the recipe wants of this training; None where it wants none, or the training is only measured.

    `network` makes what trains once more, with any weights.
    """
    section = job.autoencoder_section
    if (wanted := section.probe) is None or job.times is not None:
        return None
    which = RAW if section.train.ema is None else AVERAGED
    measures = Measures(job, wanted, network)
    return Probe(
        wanted.every,
        measures.of_training,
        f"{LOSS}/{which}" if wanted.loss else f"{PAIRS}/",
        higher=lambda name: name.startswith(f"{PAIRS}/") and is_higher_better(measures.judged, name),
        shown=lambda name: name.startswith(f"{PAIRS}/") and f"/{which}" in name,
    )


class Measures:
    """Numbers about an autoencoder on held-out images, the same ones and under the same noise at every probe."""

    def __init__(self, job: Job, wanted: AutoencoderProbe, network: Callable[[], Autoencoding]):
        self.job, self.network = job, network
        images, where = job.images("validation"), (job.world, job.reporter)
        self.of_loss = HeldOut(images, wanted.loss.images, *where) if wanted.loss else None
        self.of_metrics = HeldOut(images, wanted.count, *where) if wanted.metrics else None
        self.judged = judges_of(job, wanted.metrics, "pairs")
        self.judged.ready(job.device)

    def of_training(self, training: Probed) -> dict[str, float]:
        """Every number, by the weights and by their average. Every rank must call it.

        `loss/<weights>`: the weighted sum of the training's terms, under its noise, without the adversary's and without
        the factors of adaptive weights, which take gradients. `loss/<term>/<weights>[/noised]`: a term by itself.
        `reconstruction/<metric>/<weights>[/noised]`.
        """
        numbers: dict[str, float] = {}
        network = self.network().eval()
        for which, weights in weights_of(training, NAME):
            network.load_state_dict(weights)
            with training.autocast():
                numbers |= self._losses(network, which) if self.of_loss else {}
                numbers |= self._metrics(network, which) if self.of_metrics else {}
        return numbers

    def _losses(self, network: Autoencoding, which: str) -> dict[str, float]:
        assert self.of_loss is not None
        own = {number: self._terms(network, which, batch) for number, batch in self.of_loss.own_batches()}
        return means_over_ranks(self.job.world, own)

    @torch.no_grad()
    def _terms(self, network: Autoencoding, which: str, batch: ImageBatch) -> BatchMeans:
        """The means of a batch: the sum first, then each term."""
        objective, there = network.objective, batch.to(self.job.device)
        feature = teacher_features(self.job.teacher, self.job.precision, there) if self.job.teacher else None
        image, passed = there.image_B3RR, self._passed(network, there)
        terms = objective.latent_terms(passed.hidden, passed.latent, image, feature)
        clean = terms | objective.reconstruction(passed.clean, image)
        noised = objective.reconstruction(passed.noised, image)
        total = [term.weighted.float() for term in (terms | noised).values()]
        means = {f"{LOSS}/{which}": torch.stack(total).sum()}
        means |= {f"{LOSS}/{name}/{which}": term.value for name, term in clean.items()}
        means |= {f"{LOSS}/{name}/{which}{NOISED}": term.value for name, term in noised.items()}
        return BatchMeans(len(batch), means)

    def _passed(self, network: Autoencoding, there: ImageBatch) -> Passed:
        hidden, latent = network.model.encode(there.image_B3RR)
        draws = draws_for("autoencoder", there.index_B.tolist(), self.job.device)
        noised = network.objective.noise.perturb(latent, draws)
        clean, noised = (network.model.decode(z).float() for z in (latent.mean_BDHW, noised))
        return Passed(hidden, latent, clean, noised)

    def _metrics(self, network: Autoencoding, which: str) -> dict[str, float]:
        clean, noised = self.judged.copies(), self.judged.copies()
        apart = len(clean.metrics) * self.job.world.size  # a metric's owner owns it under both numbers
        both = replace(clean, metrics=clean.metrics | {place + apart: m for place, m in noised.metrics.items()})
        for metric, (real, fake) in handed(both, self._looked_at(network, both, apart)):
            metric.update(received(self.job, metric, real), received(self.job, metric, fake))
        numbers: dict[str, float] = {}
        for judged, how in ((clean, ""), (noised, NOISED)):
            found = results(self.job, PAIRS, judged, {})
            numbers |= {f"{name}/{which}{how}": entry["value"] for name, entry in found.items()}
        return numbers

    @torch.no_grad()
    def _looked_at(self, network: Autoencoding, both: Judged, apart: int) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
        """What each metric looks at of this rank's images and reconstructions: from number `apart` on, those under
        noise."""
        assert self.of_metrics is not None
        for _, batch in self.of_metrics.own_batches():
            passed = self._passed(network, batch.to(self.job.device))
            clean, noised = (to_uint8(fake).cpu() for fake in (passed.clean, passed.noised))
            yield {
                place: (
                    extracted(self.job, metric, batch.pixels_BRR3),
                    extracted(self.job, metric, noised if place >= apart else clean),
                )
                for place, metric in both.metrics.items()
            }


@dataclass(frozen=True)
class Passed:
    """What becomes of images in an autoencoder: (hidden_BEHW, the latent), and their reconstructions from the latent's
    mean and under the noise of the training."""

    hidden: Tensor
    latent: Latent
    clean: Tensor
    noised: Tensor
