"""Stage 4: train the denoiser on the cached latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaekit.api import ComponentConfig, Quantity, TimeSampler
from gaekit.data.latents import TrainingLatents
from gaekit.flow.ddpm import Ddpm, ddpm_losses
from gaekit.flow.objective import drop_labels, flow_matching
from gaekit.flow.path import Path as FlowPath
from gaekit.flow.processes import get_process
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Diffusion, Guidance, Recipe
from gaekit.stages.denoiser_probe import LossesOf, probe_of
from gaekit.stages.generate import ImageGenerator, preview_labels
from gaekit.stages.job import Job
from gaekit.stages.network import UNKNOWN_CLASSES, Network
from gaekit.stages.online import latents_for
from gaekit.stages.stage import Stage
from gaekit.store.artifact import open_artifact, resolve
from gaekit.store.models import DenoiserSpec, LoadedDenoiser, Statistics, load_autoencoder, save_denoiser
from gaekit.train.track import grid_of
from gaekit.train.training import Training

PREVIEW_STEPS = 25


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    assert recipe.diffusion is not None
    return {"seed": recipe.seed, "diffusion": recipe.diffusion.deciding}


def run(job: Job) -> dict[str, Any]:
    """Train and save the denoiser; returns what DONE records."""
    training, spec, statistics = train(job)
    ema, weights = training.averaged("denoiser"), training.weights("denoiser")
    if job.world.is_rank0:
        facts = {"seed": job.recipe.seed, "steps": training.at}
        save_denoiser(job.room.out / STAGE.artifact, weights, spec, statistics, ema, facts)
    return training.record


def train(job: Job) -> tuple[Training, DenoiserSpec, Statistics]:
    """Train the denoiser; -> (the training, what it trained, the statistics of its latents)."""
    section, seed = job.recipe.diffusion, job.recipe.seed
    assert isinstance(section, Diffusion)
    cache = latents_for(job)
    spec = DenoiserSpec(section.denoiser, cache.latent_dim, cache.grid, cache.classes, section.path, section.betas)
    job.seed_torch("denoiser")
    denoiser = spec.build(job.registry)
    if section.train.init:
        start = open_artifact(resolve(Path(section.train.init), STAGE.name, STAGE.artifact), "denoiser")
        start.load_into(denoiser, "ema" if start.shapes("ema") else "weights")
    job.machine.prepare(denoiser, section.train.precision)
    losses_of, null = objective(section, denoiser.predicts), len(spec.classes)
    preview = _preview_maker(job, spec, cache) if job.recipe.sample is not None else None
    times = build(TimeSampler, section.times, job.registry, dimension=spec.channels * spec.grid**2)

    probe = probe_of(job, cache, spec, losses_of)
    with Training(section.train, {"denoiser": denoiser}, job.host, probe=probe) as training:
        for step, batch in training.steps(
            lambda k, first, last: cache.training(seed, section.train.batch, k, first=first, last=last)
        ):
            t = times.times(step.draws("time"))
            noise = step.draws("noise").normal(*batch.latent_BDHW.shape[1:])
            label = drop_labels(batch.label_B, null, section.label_dropout, step.draws("label").uniform())
            with training.autocast():
                losses = losses_of(training["denoiser"], t, batch.latent_BDHW, label, noise)
            training.update("denoiser", losses)
            if preview and step.pictures and step.final:
                training.pictures({"samples": preview(training.averaged("denoiser") or training.weights("denoiser"))})
    return training, spec, cache.statistics


def objective(section: Diffusion, predicts: Quantity) -> LossesOf:
    """The losses for the recipe's path: flow matching (`flow.objective`), or those of DDPM's chain (`flow.ddpm`)."""
    process = get_process(section.path, section.betas)
    if isinstance(process, Ddpm):
        ddpm = process
        return lambda denoiser, t, latent, label, noise: ddpm_losses(denoiser, ddpm, t, latent, label, noise)
    assert isinstance(process, FlowPath)
    path = process
    return lambda denoiser, t, latent, label, noise: flow_matching(
        denoiser, path, t, latent, label, noise,
        predicts=predicts, weighting=section.weighting, cosine=section.cosine, clamp=section.clamp,
    )  # fmt: skip


def _preview_maker(job: Job, spec: DenoiserSpec, cache: TrainingLatents) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A function from weights to a grid of samples by class, from noise that is the same at every look.

    It is for looking: a few steps, in the training's precision. Every rank calls it and draws some of the images; the
    networks for it are there only meanwhile.
    """
    section, train = job.recipe.sample, job.recipe.diffusion
    assert section is not None
    assert isinstance(train, Diffusion)
    guidance = section.guidance
    if guidance.weak is not None:  # made for sampling: a preview shows the denoiser alone
        guidance = Guidance()
    quick = section.model_copy(update={"sampler": _few_steps(section.sampler), "precision": train.train.precision})
    labels, world = preview_labels(len(spec.classes)), job.world

    def preview(weights: Mapping[str, Tensor]) -> Tensor:
        network = spec.build(job.registry).eval().requires_grad_(False)
        network.load_state_dict(weights)
        denoiser = LoadedDenoiser(network, spec, cache.statistics)
        autoencoder = load_autoencoder(job.inputs["autoencoder"], job.registry)
        generator = ImageGenerator(
            job.machine, job.registry, quick, job.recipe.seed, autoencoder, denoiser, guidance, compiled=False
        )
        own = range(len(labels))[world.rank :: world.size]
        images = generator.images("preview", own, [labels[i] for i in own]).cpu() if own else torch.empty(0)
        by_rank = world.all_gather(images)
        every = [by_rank[i % world.size][i // world.size] for i in range(len(labels))]
        return grid_of(every, columns=max(1, len(labels) // 2))

    return preview


def _few_steps(sampler: ComponentConfig) -> ComponentConfig:
    """The sampler with at most PREVIEW_STEPS steps, where it has that setting."""
    steps = getattr(sampler, "steps", None)
    return sampler.model_copy(update={"steps": PREVIEW_STEPS}) if steps and steps > PREVIEW_STEPS else sampler


def networks(recipe: Recipe, registry: Registry, classes: int | None) -> Iterator[Network]:
    """The denoiser."""
    section = recipe.diffusion
    if isinstance(section, Diffusion):
        names = tuple(str(i) for i in range(UNKNOWN_CLASSES if classes is None else classes))
        spec = DenoiserSpec(section.denoiser, recipe.latent_dim, recipe.image.grid, names, section.path)
        yield Network(STAGE.name, "denoiser", spec.build(registry), section.train.ema is not None)


STAGE = Stage(
    name="diffusion",
    revision=3,
    artifact="denoiser.safetensors",
    kind="denoiser",
    needs=("latents", "autoencoder"),
    parts=parts,
    run=run,
    train=train,
    networks=networks,
    previews=("denoiser", "encoder", "decoder"),
)
