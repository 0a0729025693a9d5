"""Stage 1: fit the aligner to the teacher's features (GAE's semantic teacher). At once where nothing is to be
fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gaekit.api import Aligner, Losses
from gaekit.errors import GaekitError
from gaekit.plugins import Registry
from gaekit.recipe.schema import Autoencoder, Recipe, Semantic
from gaekit.stages.features import features_for
from gaekit.stages.job import Job
from gaekit.stages.network import Network, untrained_aligner
from gaekit.stages.stage import Stage
from gaekit.store.models import save_aligner
from gaekit.train.training import Training


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result."""
    flip = recipe.autoencoder.flip if isinstance(recipe.autoencoder, Autoencoder) else False
    return {
        "seed": recipe.seed,
        "image": recipe.image,
        "latent_dim": recipe.latent_dim,
        "teacher": recipe.teacher,
        "aligner": recipe.aligner,
        "semantic": recipe.semantic,
        "flip": flip,
    }


def run(job: Job) -> dict[str, Any]:
    """Fit the aligner and save it; returns what DONE records."""
    aligner = _aligner(job)
    record: dict[str, Any] = {"fit": aligner.fit}
    if aligner.fit == "train":
        training = _training(job, aligner)
        fitted = training.averaged("aligner") or training.weights("aligner")
        if job.world.is_rank0:
            _save(job, aligner, {name.removeprefix("aligner."): value for name, value in fitted.items()})
        record |= training.record
    elif aligner.fit == "closed":
        section = job.recipe.semantic
        images = job.images("train")
        limit = section.images if isinstance(section, Semantic) else None
        features = features_for(job, images, job.autoencoder_section.flip)
        if job.world.is_rank0:
            aligner.fit_closed(features.batches(images, limit, job.device))
    if aligner.fit != "train" and job.world.is_rank0:
        _save(job, aligner, aligner.state_dict())
    return record


def train(job: Job) -> Training:
    """Train the aligner."""
    return _training(job, _aligner(job))


def _aligner(job: Job) -> Aligner:
    aligner, train = job.build_aligner(), STAGE.training(job.recipe)
    job.machine.prepare(aligner, train.precision if train else "float32")
    return aligner


def _save(job: Job, aligner: Aligner, weights: Mapping[str, Tensor]) -> None:
    save_aligner(job.room.out / STAGE.artifact, aligner, weights, {"fit": aligner.fit})


class Fitting(nn.Module):
    """An aligner as a network whose output are its fitting losses."""

    def __init__(self, aligner: Aligner):
        super().__init__()
        self.aligner = aligner

    def forward(self, feature_BFHW: Tensor) -> Losses:
        """The losses of these features."""
        return self.aligner.fit_losses(feature_BFHW)


def _training(job: Job, aligner: Aligner) -> Training:
    section = job.recipe.semantic
    if not isinstance(section, Semantic) or section.train is None:
        raise GaekitError(f"semantic.train: the aligner '{aligner.name}' is trained and needs this section")
    flip, images, train = job.autoencoder_section.flip, job.images("train"), section.train
    features = features_for(job, images, flip)

    with Training(train, {"aligner": Fitting(aligner)}, job.host) as training:
        for _, batch in training.steps(
            lambda k, first, last: images.training(
                job.recipe.seed, train.batch, start=k, flip=flip, first=first, last=last, features=features.reading
            )
        ):
            feature = features.of(batch)
            with training.autocast():
                losses = training["aligner"](feature)
            training.update("aligner", losses)
    return training


def networks(recipe: Recipe, registry: Registry, classes: int | None) -> Iterator[Network]:
    """The aligner, where it is trained here."""
    train, aligner = STAGE.training(recipe), untrained_aligner(recipe, registry)
    if train is not None and aligner is not None and aligner.fit == "train":
        yield Network("semantic", "aligner", aligner, train.ema is not None)


STAGE = Stage(
    name="semantic",
    revision=3,
    artifact="aligner.safetensors",
    kind="aligner",
    reads_data=True,
    parts=parts,
    run=run,
    train=train,
    networks=networks,
)
