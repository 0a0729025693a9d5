"""Stage 2: train the autoencoder: reconstruction, alignment, the regularizer's penalty, and an adversary from some
step on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.api import Aligner, Latent, NoiseSampler, Perceptual
from gaekit.data.images import ImageBatch, Images
from gaekit.errors import GaekitError
from gaekit.nn.adversary import PatchGAN, Reduce, adaptive_weight
from gaekit.plugins import Registry, build
from gaekit.recipe.schema import Adversary, Recipe
from gaekit.recipe.schema import Autoencoder as Section
from gaekit.stages.adversary import AdversarialLoss, reconstruction
from gaekit.stages.autoencoder_probe import probe_of
from gaekit.stages.features import features_for
from gaekit.stages.job import Job
from gaekit.stages.network import Network, untrained_aligner
from gaekit.stages.stage import Stage
from gaekit.store.artifact import open_artifact, resolve
from gaekit.store.models import Autoencoder, AutoencoderSpec, load_aligner, save_autoencoder
from gaekit.train.step import Step
from gaekit.train.track import grid_of
from gaekit.train.training import OptimizerOverrides, Training
from gaekit.values import Loss, Losses

SHOWN = 8
ALIGNMENT_LIMIT = 1e8
"""The largest factor of adaptive alignment terms, VA-VAE's."""


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    return {
        "seed": recipe.seed,
        "image": recipe.image,
        "latent_dim": recipe.latent_dim,
        "teacher": recipe.teacher,
        "aligner": recipe.aligner,
        "autoencoder": recipe.autoencoder.deciding,
    }


class Objective(nn.Module):
    """The autoencoder's losses; holds the aligner, which trains with the autoencoder unless it was fitted before.

    The reconstruction r is the weighted sum of l1, l2 and perceptual, each a mean over the batch and over pixels. With
    `log_variance` s, a scalar that trains with the autoencoder, it enters as r exp(-s) + s. LDM (arXiv 2112.10752)
    sums the same over the N = 3 R^2 values of an image: N times this. The regularizer's penalty, a sum over an image's
    latent as LDM's KL term, is divided by N, so that a weight of it means what it means there at any size and width.
    Constant weights of alignment and adversary are not divided: one of LDM's would be N times as strong here. Adaptive
    weights compare with the gradient of r exp(-s), which is LDM's up to N. `reduce` is handed to them.
    """

    def __init__(
        self,
        section: Section,
        aligner: Aligner,
        perceptual: Perceptual | None,
        noise: NoiseSampler,
        reduce: Reduce | None = None,
    ):
        super().__init__()
        self.section, self.aligner = section, aligner
        self._frozen = (perceptual,)  # in a tuple: not a submodule, not trained, not saved
        self.noise, self.weights, self.reduce = noise, section.weights, reduce
        start = section.weights.log_variance
        self.log_variance = None if start is None else nn.Parameter(torch.tensor(start))

    def copy(self, aligner: Aligner) -> Objective:
        """Another with the same settings and the same perceptual network, and weights of its own."""
        return Objective(self.section, aligner, *self._frozen, self.noise, self.reduce)

    def forward(self, model: Autoencoder, image: Tensor, feature: Tensor | None, step: Step) -> tuple[Tensor, Losses]:
        """-> (the reconstruction under noise, the terms without the adversary's)."""
        hidden, latent = model.encode(image)
        fake = model.decode(self.noise.perturb(latent, step.draws("noise"))).float()
        terms = self.reconstruction(fake, image) | self.latent_terms(hidden, latent, image, feature)
        return fake, self._balanced(terms, model)

    def reconstruction(self, fake: Tensor, image: Tensor) -> Losses:
        """`l1`, `l2` and `perceptual` where they have a weight, and `log_variance` where it is learned."""
        weights, terms = self.weights, Losses()
        precision = 1.0 if self.log_variance is None else torch.exp(-self.log_variance)
        (perceptual,) = self._frozen
        if weights.l1:
            terms["l1"] = Loss((fake - image).abs().mean(), weights.l1 * precision)
        if weights.l2:
            terms["l2"] = Loss((fake - image).square().mean(), weights.l2 * precision)
        if perceptual is not None and weights.perceptual:
            terms["perceptual"] = Loss(perceptual(fake, image).mean(), weights.perceptual * precision)
        if self.log_variance is not None:
            terms["log_variance"] = Loss(self.log_variance)
        return terms

    def latent_terms(self, hidden: Tensor, latent: Latent, image: Tensor, feature: Tensor | None) -> Losses:
        """`penalty` and the alignment's terms, where there are some, with the weights that they state."""
        return self._penalty(latent, image) | self._alignment(hidden, latent, feature)

    def _balanced(self, terms: Losses, model: Autoencoder) -> Losses:
        """Adaptive terms times the factor that they share (`Loss.adaptive`; VA-VAE, arXiv 2501.01423)."""
        adaptive = {name: term for name, term in terms.items() if term.adaptive}
        if not adaptive:
            return terms
        total = torch.stack([term.value for term in adaptive.values()]).sum()
        factor = adaptive_weight(
            reconstruction(terms), total, model.encoder.last_layer, limit=ALIGNMENT_LIMIT, reduce=self.reduce
        )
        return terms | {name: replace(term, weight=term.weight * factor) for name, term in adaptive.items()}

    def _penalty(self, latent: Latent, image: Tensor) -> Losses:
        """The regularizer's sum over an image's latent, for an image's number of values: reconstructions are means."""
        if latent.penalty is None:
            return {}
        return {"penalty": replace(latent.penalty, weight=latent.penalty.weight / image[0].numel())}

    def _alignment(self, hidden: Tensor, latent: Latent, feature: Tensor | None) -> Losses:
        """In float32; outside of autocast also because that would keep what `target` casts without a gradient, and hand
        it to `losses`."""
        if feature is None:
            return {}
        with torch.autocast(device_type=hidden.device.type, enabled=False):
            with torch.no_grad():
                target = self.aligner.target(feature.float())
            return self.aligner.losses(hidden.float(), latent, target)


class Autoencoding(nn.Module):
    """The autoencoder with its objective: what trains, as one network whose output are its losses."""

    def __init__(self, model: Autoencoder, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, image_B3RR: Tensor, feature: Tensor | None, step: Step) -> tuple[Tensor, Losses]:
        """-> (the reconstruction under noise, the terms without the adversary's)."""
        return self.objective(self.model, image_B3RR, feature, step)  # type: ignore[no-any-return]

    def trained_parts(self) -> list[nn.Module]:
        """What is called by itself and has weights to train."""
        parts = (self.model.encoder, self.model.regularizer, self.model.decoder, self.objective)
        return [part for part in parts if any(p.requires_grad for p in part.parameters())]


def run(job: Job) -> dict[str, Any]:
    """Train and save the autoencoder; returns what DONE records."""
    training, spec, images = train(job)
    weights, averaged = (_of_model(found("autoencoder")) for found in (training.weights, training.averaged))
    if job.world.is_rank0:
        facts = {"seed": job.recipe.seed, "steps": training.at}
        save_autoencoder(job.room.out / STAGE.artifact, weights, spec, averaged, facts)
    return {**training.record, "skipped_images": job.skipped(images)}


def train(job: Job) -> tuple[Training, AutoencoderSpec, Images]:
    """Train the autoencoder, and the adversary with it; -> (the training, what it trained, on which images)."""
    section, settings = job.autoencoder_section, job.autoencoder_section.train
    model, objective, critic = _networks(job)
    images, shown = job.images("train"), _shown(job)
    features = features_for(job, images, section.flip) if job.teacher else None
    reading = features.reading if features else None
    adversarial = AdversarialLoss(section.adversary, settings, job.world.mean) if section.adversary and critic else None
    modules: dict[str, nn.Module] = {"autoencoder": Autoencoding(model, objective)}
    if critic is not None:
        modules["adversary"] = critic
    overrides = {}
    if section.adversary:
        overrides["adversary"] = OptimizerOverrides(section.adversary.beside(settings), sharded=False)

    probe = probe_of(job, lambda: _copy(job, objective))
    with Training(settings, modules, job.host, overrides, probe) as training:
        for step, batch in training.steps(
            lambda k, first, last: images.training(
                job.recipe.seed, settings.batch, start=k, flip=section.flip, first=first, last=last, features=reading
            )
        ):
            feature = features.of(batch) if features else None
            with training.autocast():
                fake, losses = training["autoencoder"](batch.image_B3RR, feature, step)
                if adversarial and critic:
                    losses |= adversarial.generator_losses(critic, fake, losses, model.decoder.last_layer, step)
            training.update("autoencoder", losses)
            if adversarial and critic and adversarial.started(step):
                with training.autocast():
                    judged, accuracy = adversarial.critic_losses(
                        training["adversary"], batch.image_B3RR, fake.detach(), step
                    )
                training.update("adversary", judged)
                training.note("train/accuracy/adversary", accuracy)
            if step.pictures and step.final:
                training.pictures({"reconstructions": _reconstructions(model, shown)})
    return training, model.spec, images


def _of_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}


def _networks(job: Job) -> tuple[Autoencoder, Objective, nn.Module | None]:
    section = job.autoencoder_section
    aligner = job.build_aligner()
    if aligner.fit is not None:
        load_aligner(job.inputs["semantic"], aligner)
    perceptual = None
    if section.perceptual is not None:
        perceptual = build(Perceptual, section.perceptual, job.registry, image_size=job.recipe.image.size)
        job.machine.prepare(perceptual.eval().requires_grad_(False), section.train.precision)
    job.seed_torch("autoencoder")
    model = Autoencoder(job.autoencoder_spec, job.registry)
    if section.train.init:
        start = open_artifact(resolve(Path(section.train.init), STAGE.name, STAGE.artifact), "autoencoder")
        start.load_into(model, "ema" if start.shapes("ema") else "weights")
    noise = build(NoiseSampler, section.noise, job.registry)
    objective = Objective(section, aligner, perceptual, noise, job.world.mean)
    _check_strategy(job, aligner)
    job.machine.prepare(model.encoder, section.train.precision)
    job.machine.prepare(model.decoder, section.train.precision)
    model.to(job.device)
    objective.to(job.device)
    job.machine.watch(aligner)
    return model, objective, _critic(job)


def _copy(job: Job, objective: Objective) -> Autoencoding:
    """What trains, once more, as a probe looks at it: with other weights, the same frozen networks, nothing
    compiled."""
    model, aligner = Autoencoder(job.autoencoder_spec, job.registry), job.build_aligner()
    copy = Autoencoding(model, objective.copy(aligner)).requires_grad_(False)
    job.machine.watch(aligner)
    for part in (model.encoder, model.decoder):
        job.machine.prepare(part, job.autoencoder_section.train.precision, compiled=False)
    return copy.to(job.device)


def _critic(job: Job) -> nn.Module | None:
    adversary = job.autoencoder_section.adversary
    if adversary is None:
        return None
    job.seed_torch("adversary")
    critic: nn.Module = _patchgan(adversary)
    job.machine.prepare(critic)
    return critic


def _patchgan(settings: Adversary) -> PatchGAN:
    return PatchGAN(settings.channels, settings.layers, settings.norm, settings.norm_batch)


def _check_strategy(job: Job, aligner: Aligner) -> None:
    """What several ranks cannot do is refused. Raises GaekitError."""
    section, world = job.autoencoder_section, job.world
    if world.size == 1:
        return
    adaptive = (section.adversary and section.adversary.adaptive) or aligner.adaptive
    learned = section.weights.log_variance is not None
    if job.recipe.runtime.strategy == "fsdp" and (adaptive or learned):
        raise GaekitError(
            "runtime.strategy: fsdp shards the layers whose gradients adaptive weights compare, and cannot shard the "
            "scalar of autoencoder.weights.log_variance; use ddp, or constant weights and no log_variance"
        )


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


def networks(recipe: Recipe, registry: Registry, classes: int | None) -> Iterator[Network]:
    """Encoder and decoder, the aligner, frozen where it was fitted before, and the adversary."""
    section, spec = recipe.autoencoder, AutoencoderSpec.of_recipe(recipe)
    if not isinstance(section, Section) or spec is None:
        return
    name, averaged = STAGE.name, section.train.ema is not None
    if (aligner := untrained_aligner(recipe, registry)) is not None:
        fitted = aligner.fit is not None
        module = aligner.requires_grad_(False) if fitted else aligner
        yield Network(name, "aligner", module, averaged, sharded=not fitted, kept=False)
    model = Autoencoder(spec, registry)
    yield Network(name, "encoder", model.encoder, averaged)
    yield Network(name, "decoder", model.decoder, averaged)
    if section.adversary:
        yield Network(name, "adversary", _patchgan(section.adversary), averaged=False, sharded=False, kept=False)


STAGE = Stage(
    name="autoencoder",
    revision=4,
    artifact="autoencoder.safetensors",
    kind="autoencoder",
    needs=("semantic",),
    reads_data=True,
    parts=parts,
    run=run,
    train=train,
    networks=networks,
)
