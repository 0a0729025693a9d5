"""Stage 2: train the autoencoder: reconstruction, alignment, the regularizer's penalty, and an adversary from some
step on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.api import Aligner, Latent, NoiseSampler, Perceptual
from gaekit.data.images import ImageBatch, Images
from gaekit.nn.adversary import PatchGAN
from gaekit.plugins import build
from gaekit.recipe.schema import Autoencoder as Section
from gaekit.recipe.schema import Recipe
from gaekit.stages.adversary import AdversarialPlay
from gaekit.stages.features import features_for
from gaekit.stages.job import Job
from gaekit.store.artifact import load_into, open_artifact, resolve
from gaekit.store.models import Autoencoder, load_aligner, save_autoencoder
from gaekit.train.track import grid_of
from gaekit.train.training import Pace, Step, Training
from gaekit.values import Loss, Losses

NAME = "autoencoder"
REVISION = 1
NEEDS = ("semantic",)
ARTIFACT = "autoencoder.safetensors"
READS_DATA = True
SHOWN = 8


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    return {
        "seed": recipe.seed,
        "image": recipe.image,
        "latent_dim": recipe.latent_dim,
        "teacher": recipe.teacher,
        "aligner": recipe.aligner,
        "autoencoder": recipe.autoencoder,
    }


class Objective(nn.Module):
    """The autoencoder's losses; holds the aligner, which trains with the autoencoder unless it was fitted before."""

    def __init__(self, section: Section, aligner: Aligner, perceptual: Perceptual | None, noise: NoiseSampler):
        super().__init__()
        self.aligner = aligner
        self._frozen = (perceptual,)  # in a tuple: not a submodule, not trained, not saved
        self.noise, self.weights = noise, section.weights

    def forward(self, model: Autoencoder, image: Tensor, feature: Tensor | None, step: Step) -> tuple[Tensor, Losses]:
        """-> (the reconstruction under noise, the terms without the adversary's)."""
        hidden, latent = model.encode(image)
        fake = model.decode(self.noise.perturb(latent, step.draws("noise")))
        return fake.float(), {**self._pixels(fake.float(), image), **self._latent(hidden, latent, feature)}

    def _pixels(self, fake: Tensor, image: Tensor) -> Losses:
        terms: Losses = {}
        (perceptual,) = self._frozen
        if self.weights.l1:
            terms["l1"] = Loss((fake - image).abs().mean(), self.weights.l1)
        if self.weights.l2:
            terms["l2"] = Loss((fake - image).square().mean(), self.weights.l2)
        if perceptual is not None and self.weights.perceptual:
            terms["perceptual"] = Loss(perceptual(fake, image).mean(), self.weights.perceptual)
        return terms

    def _latent(self, hidden: Tensor, latent: Latent, feature: Tensor | None) -> Losses:
        terms: Losses = {} if latent.penalty is None else {"penalty": latent.penalty}
        if feature is not None:
            with torch.no_grad():
                target = self.aligner.target(feature)
            terms |= self.aligner.losses(hidden, latent, target)
        return terms


def run(job: Job) -> dict[str, Any]:
    """Train and save the autoencoder; returns what DONE records."""
    section, train = job.autoencoder_section, job.autoencoder_section.train
    model, objective, critic = _networks(job)
    images, shown = job.images("train"), _shown(job)
    features = features_for(job, images, section.flip) if job.teacher else None
    play = AdversarialPlay(section.adversary, train) if section.adversary and critic else None
    modules: dict[str, nn.Module] = {"autoencoder": nn.ModuleDict({"model": model, "objective": objective})}
    if critic is not None:
        modules["adversary"] = critic
    paces = (
        {"adversary": Pace(section.adversary.lr, section.adversary.betas, averaged=False)} if section.adversary else {}
    )

    with Training(train, modules, job.host, paces) as training:
        for step, batch in training.steps(
            lambda k: images.training(job.recipe.seed, train.batch, start=k, flip=section.flip)
        ):
            feature = features.of(batch) if features else None
            with training.autocast():
                fake, losses = objective(model, batch.image_B3RR, feature, step)
                if play and critic:
                    losses |= play.generator_losses(critic, fake, losses, model.decoder.last_layer, step)
            training.update("autoencoder", losses)
            if play and critic and play.started(step):
                with training.autocast():
                    judged, accuracy = play.critic_losses(critic, batch.image_B3RR, fake.detach(), step)
                training.update("adversary", judged)
                training.note("adversary/accuracy", accuracy)
            if step.pictures and step.final:
                training.pictures({"reconstructions": _reconstructions(model, shown)})
        averaged = {
            k.removeprefix("model."): v for k, v in training.averaged("autoencoder").items() if k.startswith("model.")
        }
    save_autoencoder(job.room.out / ARTIFACT, model, averaged, {"seed": job.recipe.seed, "steps": train.steps})
    return {"steps": train.steps, "seconds": training.seconds, "skipped_steps": training.skipped,
            "skipped_images": dict(images.skipped)}  # fmt: skip


def _networks(job: Job) -> tuple[Autoencoder, Objective, PatchGAN | None]:
    section = job.autoencoder_section
    aligner = job.build_aligner()
    if aligner.fit is not None:
        load_aligner(job.inputs["semantic"], aligner)
    perceptual = None
    if section.perceptual is not None:
        perceptual = build(Perceptual, section.perceptual, job.registry, image_size=job.recipe.image.size)
        perceptual.to(job.device).eval().requires_grad_(False)
    job.seed_torch("autoencoder")
    model = Autoencoder(job.autoencoder_spec, job.registry)
    if section.train.init:
        start = open_artifact(resolve(Path(section.train.init), NAME, ARTIFACT), "autoencoder")
        load_into(model, start.tensors("ema") or start.tensors("weights"), start.path)
    objective = Objective(section, aligner, perceptual, build(NoiseSampler, section.noise, job.registry))
    job.prepare(model.encoder, section.train.precision)
    job.prepare(model.decoder, section.train.precision)
    model.to(job.device)
    objective.to(job.device)
    return model, objective, _critic(job)


def _critic(job: Job) -> PatchGAN | None:
    adversary = job.autoencoder_section.adversary
    if adversary is None:
        return None
    job.seed_torch("adversary")
    critic = PatchGAN(channels=adversary.channels, layers=adversary.layers, norm=adversary.norm)
    job.prepare(critic)
    return critic


def _shown(job: Job) -> Tensor:
    validation: Images = job.images("validation")
    count = min(SHOWN, len(validation))
    batch: ImageBatch = validation.batch(range(count), [False] * count)
    return batch.to(job.device).image_B3RR


@torch.no_grad()
def _reconstructions(model: Autoencoder, image: Tensor) -> Tensor:
    model.eval()
    both = torch.cat([image, model.reconstruct(image).float()])
    model.train()
    return grid_of(both, len(image))
