"""What a probe of the denoiser's training measures: its loss on held-out images, and numbers about samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gaekit.api import ComponentConfig, Denoiser, Losses
from gaekit.data.images import to_uint8
from gaekit.data.latents import TrainingLatents
from gaekit.flow.gaussian import GaussianDenoiser
from gaekit.flow.guidance import DenoiserCall
from gaekit.flow.processes import get_process
from gaekit.recipe.load import load_component
from gaekit.recipe.probe import DiffusionProbe
from gaekit.recipe.schema import Diffusion, Guidance, Latents, Sample
from gaekit.stages.generate import ImageGenerator, labels_for
from gaekit.stages.held_out import AVERAGED, BATCH, RAW, BatchMeans, HeldOut, draws_for, means_over_ranks, weights_of
from gaekit.stages.job import Job
from gaekit.stages.judging import is_higher_better, judge_samples, judges_of, results
from gaekit.stages.latents import encode, load_encoder
from gaekit.stages.references import Reconstructor, with_references
from gaekit.store.models import DenoiserSpec, LoadedDenoiser, load_autoencoder
from gaekit.train.probing import Probe, Probed

NAME = "denoiser"
"""The module in its training."""
LOSS, NOISE, SAMPLES = "loss", "loss/noise", "samples/"
"""How the names of scalars begin: of the loss, of that of the denoiser whose samples are noise, of metrics."""
DEFAULT_STEPS = 50
LossesOf = Callable[[DenoiserCall, Tensor, Tensor, Tensor, Tensor], Losses]
"""(denoiser, t_B, latent_BDHW, label_B, noise_BDHW) -> losses."""


def probe_of(job: Job, cache: TrainingLatents, spec: DenoiserSpec, losses_of: LossesOf) -> Probe | None:
    """The probe that the recipe wants of this training, with what it needs made ready; None where it wants none, or
    the training is only measured."""
    section = job.recipe.diffusion
    assert isinstance(section, Diffusion)
    if (wanted := section.probe) is None or job.times is not None:
        return None
    loss = HeldOutLosses(job, cache, spec, losses_of, wanted.loss.images, wanted.loss.times) if wanted.loss else None
    samples = SampleMetrics(job, cache, spec, section, wanted) if wanted.metrics else None
    decides = f"{LOSS}/{RAW if section.train.ema is None else AVERAGED}"
    return Probe(
        wanted.every,
        lambda training: _measure(job, spec, loss, samples, training),
        decides if loss is not None else SAMPLES,
        higher=lambda name: samples is not None and is_higher_better(samples.judged, name),
        shown=lambda name: name == NOISE or name.startswith(SAMPLES),
        doubt=lambda numbers: _no_better_than_noise(numbers, decides),
    )


def _measure(
    job: Job, spec: DenoiserSpec, loss: HeldOutLosses | None, samples: SampleMetrics | None, training: Probed
) -> dict[str, float]:
    section = job.recipe.diffusion
    assert isinstance(section, Diffusion)
    numbers: dict[str, float] = {}
    network = spec.build(job.registry).eval().requires_grad_(False)
    job.machine.prepare(network, section.train.precision, compiled=False)
    for which, weights in weights_of(training, NAME):
        network.load_state_dict(weights)
        if loss is not None:
            with training.autocast():
                numbers |= loss.of(network, which)
    if loss is not None:
        numbers[NOISE] = loss.of_noise
    if samples is not None:  # by the weights of last: the average, where there is one
        numbers |= samples.of(network)
    return numbers


def _no_better_than_noise(numbers: Mapping[str, float], decides: str) -> str | None:
    """What is wrong with a denoiser that predicts held-out latents no better than one that takes them for noise."""
    if NOISE not in numbers or numbers[decides] < numbers[NOISE]:
        return None
    return (
        f"samples are no better than noise yet: {decides} is {numbers[decides]:.4g} on held-out images, and "
        f"{numbers[NOISE]:.4g} is reached by knowing the mean and the variance of the latents' channels alone"
    )


@dataclass(frozen=True)
class HeldOutLatents:
    """A batch of standardised latents with their labels, and the indices of their images."""

    latent_BDHW: Tensor
    label_B: Tensor
    indices: list[int]


class HeldOutLosses:
    """The training's loss on held-out images, which are encoded once, at times and with noise that stay the same.

    The times are the middles of equal parts of [0, 1], whatever times the training draws, so that recipes that draw
    others can be compared. An image's noise depends on its index and the time. The label is the image's own; that of no
    class where the latents have other classes than the data.
    """

    def __init__(
        self, job: Job, cache: TrainingLatents, spec: DenoiserSpec, losses_of: LossesOf, images: int, times: int
    ):
        self.job, self.spec, self.losses_of = job, spec, losses_of
        self.times = [(number + 0.5) / times for number in range(times)]
        self._labelled = len(spec.classes) == len(job.data.dataset.classes)
        if not self._labelled:
            job.reporter.say(
                f"  {job.stage}: the latents have {len(spec.classes)} classes and the data "
                f"{len(job.data.dataset.classes)}: the probe's loss is that of images without a class"
            )
        held_out = HeldOut(job.images("validation"), images, job.world, job.reporter)
        self.batches = dict(self._encoded(cache, held_out))

    @torch.no_grad()
    def _encoded(self, cache: TrainingLatents, held_out: HeldOut) -> Iterator[tuple[int, HeldOutLatents]]:
        """This rank's batches, encoded as the cache was."""
        facts = cache.facts
        section = Latents(store=facts["store"], precision=facts.get("precision", "float32"))
        model = load_encoder(self.job, section)
        for number, batch in held_out.own_batches():
            indices = batch.index_B.tolist()
            latent = encode(model, batch.to(self.job.device), section)
            if cache.stores_moments:
                mean, std = latent.chunk(2, dim=1)
                latent = mean + std * draws_for("posterior", indices, self.job.device).normal(*mean.shape[1:])
            label = batch.label_B if self._labelled else torch.full_like(batch.label_B, len(self.spec.classes))
            yield number, HeldOutLatents(cache.statistics.standardise(latent).cpu(), label, indices)

    def of(self, denoiser: DenoiserCall, which: str) -> dict[str, float]:
        """`loss/<which>`, the mean over images and times, and `loss/<which>/t<time>`, at each. Every rank must call
        it."""
        own = {}
        with self.job.reporter.slow_bar(f"{LOSS}/{which}", len(self.batches), "batches") as bar:
            for number, batch in self.batches.items():
                own[number] = self._of_batch(denoiser, batch, which)
                bar.advance()
        by_time = means_over_ranks(self.job.world, own)
        return {f"{LOSS}/{which}": sum(by_time.values()) / len(by_time), **by_time}

    @torch.no_grad()
    def _of_batch(self, denoiser: DenoiserCall, batch: HeldOutLatents, which: str) -> BatchMeans:
        device, means = self.job.device, {}
        latent, label = batch.latent_BDHW.to(device), batch.label_B.to(device)
        for number, time in enumerate(self.times):
            noise = draws_for(f"noise {number}", batch.indices, device).normal(*latent.shape[1:])
            losses = self.losses_of(denoiser, torch.full((len(latent),), time, device=device), latent, label, noise)
            means[f"{LOSS}/{which}/t{time:.4g}"] = torch.stack(
                [loss.weighted.float() for loss in losses.values()]
            ).sum()
        return BatchMeans(len(batch.indices), means)

    @cached_property
    def of_noise(self) -> float:
        """The loss of the denoiser that knows the mean and the variance of the channels of these latents alone. Every
        rank must ask for it."""
        mean, square = self._moment(1), self._moment(2)
        network = self._outline
        process = get_process(self.spec.path, self.spec.betas)
        best = GaussianDenoiser(
            process, network.predicts, mean, square - mean.square(), learned_variance=network.learned_variance
        )
        return self.of(best, "noise")[NOISE]

    def _moment(self, power: int) -> Tensor:
        """The mean of a power of each channel (D,), over all held-out latents."""
        own = {}
        for number, batch in self.batches.items():
            means = batch.latent_BDHW.double().pow(power).mean((0, 2, 3))
            own[number] = BatchMeans(len(batch.indices), {str(d): mean for d, mean in enumerate(means)})
        found = means_over_ranks(self.job.world, own)
        return torch.tensor([found[str(d)] for d in range(self.spec.channels)], dtype=torch.float64)

    @property
    def _outline(self) -> Denoiser:
        """The denoiser without memory, for what it says of itself."""
        with torch.device("meta"):
            return self.spec.build(self.job.registry)


class SampleMetrics:
    """Metrics of samples of a denoiser: always from the same noise, in the training's precision."""

    def __init__(
        self, job: Job, cache: TrainingLatents, spec: DenoiserSpec, section: Diffusion, wanted: DiffusionProbe
    ):
        self.job, self.spec, self.statistics = job, spec, cache.statistics
        own = job.recipe.sample
        sampler = wanted.sampler or (own.sampler if own else _default_sampler(job, spec))
        changes = {"sampler": sampler, "count": wanted.count, "precision": section.train.precision}
        self.section = (own or Sample(sampler=sampler, count=wanted.count)).model_copy(update=changes)
        guidance = self.section.guidance
        self.guidance = Guidance() if guidance.weak is not None else guidance  # as in previews
        self.judged = judges_of(job, wanted.metrics, "samples")
        with_references(job, self.judged, BATCH, Reconstructor(job, job.inputs["autoencoder"]))
        self.judged.ready(job.device)

    def of(self, network: Denoiser) -> dict[str, float]:
        """`samples/<number>` by each metric. Every rank must call it."""
        job = self.job
        autoencoder = load_autoencoder(job.inputs["autoencoder"], job.registry)
        denoiser = LoadedDenoiser(network, self.spec, self.statistics)
        generator = ImageGenerator(
            job.machine, job.registry, self.section, job.recipe.seed, autoencoder, denoiser, self.guidance,
            compiled=False,
        )  # fmt: skip
        judged = self.judged.copies()
        judge_samples(job, judged, self._own_chunks(generator))
        return {name: entry["value"] for name, entry in results(job, SAMPLES.rstrip("/"), judged, {}).items()}

    def _own_chunks(self, generator: ImageGenerator) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's (uint8 images, labels), in chunks of `sample.batch` at most; the last is padded, since the size
        of a chunk decides the last bit."""
        count, classes = self.section.count, len(self.spec.classes)
        size = min(self.section.batch, count)
        labels = labels_for(count, classes, self.section.labels, self.job.recipe.seed)
        starts = range(0, count, size)[self.job.world.rank :: self.job.world.size]
        with self.job.reporter.slow_bar("samples of the probe", len(starts), "chunks") as bar:
            for first in starts:
                own = labels[first : first + size]
                padded = [*own, *(i % max(1, classes) for i in range(len(own), size))]
                made = generator.images(
                    "probe", range(first, first + size), padded, on_step=lambda done, of: bar.within(done / of)
                )
                yield to_uint8(made).cpu()[: len(own)], torch.tensor(own)
                bar.advance()


def _default_sampler(job: Job, spec: DenoiserSpec) -> ComponentConfig:
    use = "ddim" if spec.path == "ddpm" else "euler"
    return load_component("sampler", {"use": use, "steps": DEFAULT_STEPS}, job.registry, source="diffusion.probe")
