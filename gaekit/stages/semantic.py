"""Stage 1: fit the aligner to the teacher's features (GAE's semantic teacher). At once where nothing is to be
fitted."""

from __future__ import annotations

from typing import Any

from gaekit.api import Aligner
from gaekit.errors import GaekitError
from gaekit.recipe.schema import Autoencoder, Recipe, Semantic
from gaekit.stages.features import features_for
from gaekit.stages.job import Job
from gaekit.store.models import save_aligner
from gaekit.train.training import Training

NAME = "semantic"
REVISION = 1
NEEDS: tuple[str, ...] = ()
ARTIFACT = "aligner.safetensors"
READS_DATA = True


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
    aligner = job.build_aligner()
    train = job.recipe.semantic.train if isinstance(job.recipe.semantic, Semantic) else None
    job.prepare(aligner, train.precision if train else "float32")
    record: dict[str, Any] = {"fit": aligner.fit}
    if aligner.fit == "train":
        record |= _train(job, aligner)
    elif aligner.fit == "closed":
        section = job.recipe.semantic
        images = job.images("train")
        limit = section.images if isinstance(section, Semantic) else None
        aligner.fit_closed(features_for(job, images, job.autoencoder_section.flip).batches(images, limit, job.device))
    save_aligner(job.room.out / ARTIFACT, aligner, {"fit": aligner.fit})
    return record


def _train(job: Job, aligner: Aligner) -> dict[str, Any]:
    section = job.recipe.semantic
    if not isinstance(section, Semantic) or section.train is None:
        raise GaekitError(f"semantic.train: the aligner '{aligner.name}' is trained and needs this section")
    flip, images, train = job.autoencoder_section.flip, job.images("train"), section.train
    features = features_for(job, images, flip)

    with Training(train, {"aligner": aligner}, job.host) as training:
        for _, batch in training.steps(
            lambda start: images.training(job.recipe.seed, train.batch, start=start, flip=flip)
        ):
            feature = features.of(batch)
            with training.autocast():
                losses = aligner.fit_losses(feature)
            training.update("aligner", losses)
        if averaged := training.averaged("aligner"):
            aligner.load_state_dict(averaged)
    return {"steps": train.steps, "seconds": training.seconds, "skipped_steps": training.skipped}
