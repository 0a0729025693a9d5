"""How likely a run's denoiser finds images, as latents of its autoencoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.flow.field import Field
from gaekit.flow.likelihood import Solver, log_likelihood
from gaekit.flow.processes import get_process
from gaekit.runs.opened import OpenRun
from gaekit.seeds import generator_for
from gaekit.store.files import sha256_file
from gaekit.train.draws import ImageDraws


def measure_likelihood(
    run: OpenRun, *, split: str = "validation", count: int = 256, probes: int | None = 1, batch: int = 16,
    seed: int | None = None, solver: Solver | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Negative log-likelihood of up to `count` images of a split, in nats and bits a dimension, as JSON values.

    The images are a random choice by the seed, of which a smaller count takes the first. An image's probes depend on
    (seed, index). The arithmetic is float32. Raises GaekitError where the data's classes are not the denoiser's.
    """
    _check_classes(run)
    seed = run.recipe.seed if seed is None else seed
    solver = solver or Solver()
    images = run.data.images(split)
    chosen = torch.randperm(len(images), generator=generator_for(seed, "likelihood", split))[:count].tolist()
    run.machine.prepare(run.denoiser.network, compiled=False)
    found: list[Tensor] = []
    evaluations = 0
    with run.reporter.bar("likelihood", len(chosen)) as bar:
        for first in range(0, len(chosen), batch):
            some = images.batch(chosen[first : first + batch], [False] * len(chosen[first : first + batch]))
            field = _field(run, some.label_B)
            draws = ImageDraws(seed, f"likelihood {split}", some.index_B.tolist(), run.machine.device)
            latent = _standardised(run, some.image_B3RR)
            found.append(-log_likelihood(field, latent, probes=probes, draws=draws, solver=solver).cpu())
            evaluations += field.evaluations
            bar.advance(len(some))
    return {
        "run": str(run.view.path),
        "split": split,
        "seed": seed,
        **_numbers(run, torch.cat(found)),
        "solver": {**solver.facts(), "probes": "exact" if probes is None else probes, "batch": batch},
        "evaluations_per_image": evaluations / len(chosen),
        **_facts(run),
    }


def _check_classes(run: OpenRun) -> None:
    known, given = run.classes, run.data.dataset.classes
    if known and len(known) != len(given):
        raise GaekitError(
            f"{run.view.path}: its denoiser knows {len(known)} classes, and its data has {len(given)}; "
            f"the likelihood is that of a latent given its class"
        )


def _field(run: OpenRun, label_B: Tensor) -> Field:
    network, spec = run.denoiser.network, run.denoiser.spec
    label = (label_B if spec.classes else torch.zeros_like(label_B)).to(run.machine.device)
    return Field(network, get_process(spec.path, spec.betas), None, label, len(spec.classes), network.predicts)


@torch.no_grad()
def _standardised(run: OpenRun, image_B3RR: Tensor) -> Tensor:
    _, latent = run.autoencoder.encode(image_B3RR.to(run.machine.device))
    return run.denoiser.statistics.standardise(latent.mean_BDHW.float())


def _numbers(run: OpenRun, nats_B: Tensor) -> dict[str, Any]:
    """The mean a dimension over images, of latents as the denoiser sees them and as the autoencoder gives them."""
    spec, count = run.denoiser.spec, len(nats_B)
    dimensions = spec.channels * spec.grid**2
    standardised = float(nats_B.mean()) / dimensions
    raw = standardised + float(run.denoiser.statistics.std_D.double().log().mean())
    error = float(nats_B.std()) / dimensions / math.sqrt(count) if count > 1 else None
    return {
        "images": count,
        "dimensions": dimensions,
        "standardised": {"nats_per_dim": standardised, "bits_per_dim": standardised / math.log(2)},
        "raw": {"nats_per_dim": raw, "bits_per_dim": raw / math.log(2)},
        "standard_error_nats_per_dim": error,
    }


def _facts(run: OpenRun) -> dict[str, Any]:
    spec = run.denoiser.spec
    artifacts: dict[str, Path] = {name: run.view.artifact(name) for name in ("autoencoder", "diffusion")}
    return {
        "of": "latent means" + (", given their class" if spec.classes else ""),
        "path": spec.path,
        "ema": run.recipe.sample is None or run.recipe.sample.ema,
        "dataset": run.data.digest,
        "sha256": {name: sha256_file(path) for name, path in artifacts.items()},
    }
