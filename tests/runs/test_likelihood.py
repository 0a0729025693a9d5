"""`gaekit likelihood` on a run: the number is that of the held-out latents, whatever the batch, and says what it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flow_helpers import GaussianDenoiser
from rich.console import Console
from torch.distributions import Normal

from gaekit.cli import main
from gaekit.errors import GaekitError
from gaekit.flow.path import get_path
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.runs.likelihood import measure_likelihood
from gaekit.runs.opened import OpenRun, open_run
from gaekit.train.progress import Reporter

REGISTRY = load_plugins()
RECIPE = """
recipe: 1
name: tiny
image: {size: 16, stride: 8}
latent_dim: 4
dataset: {use: digits}
autoencoder:
  encoder: {use: vit, depth: 1, width: 16, heads: 2}
  decoder: {use: vit, depth: 1, width: 16, heads: 2}
  regularizer: {use: rms_norm}
  noise: {use: dynamic}
  train: {steps: 2, batch: 8}
latents: {flip: false}
diffusion:
  path: PATH
  denoiser: {use: DENOISER, depth: 1, width: 16, heads: 2, patch: 1}
  times: {use: uniform}
  train: {steps: 3, batch: 16, lr: 1e-2}
runtime: {trackers: [], save_every: 100, threads: 1}
"""


def train(folder: Path, path: str = "linear", denoiser: str = "lightning_dit") -> Path:
    (folder / "tiny.yaml").write_text(RECIPE.replace("PATH", path).replace("DENOISER", denoiser))
    recipe = load_recipe(folder / "tiny.yaml", REGISTRY)
    return run_recipe(recipe, REGISTRY, out=folder / "runs", reporter=Reporter(Console(quiet=True))).path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("likelihood"))


def opened(path: Path) -> OpenRun:
    return open_run(path, REGISTRY, Reporter(Console(quiet=True)))


def test_a_denoiser_of_known_density_is_measured_as_torch_does(tiny: Path) -> None:
    run = opened(tiny)
    truth = GaussianDenoiser(get_path("linear"), mean=0.2, std=1.1)
    network = torch.nn.Module()
    network.forward, network.predicts = truth, "velocity"  # type: ignore[assignment, method-assign]
    run.__dict__["denoiser"] = replace(run.denoiser, network=network)  # type: ignore[type-var]
    images = run.data.images("validation")
    found = measure_likelihood(run, count=len(images))
    image = torch.cat([batch.image_B3RR for batch in images.in_order(64)])
    latent = run.autoencoder.encode(image)[1].mean_BDHW
    statistics = run.denoiser.statistics
    nats = -Normal(0.2, 1.1).log_prob(statistics.standardise(latent)).flatten(1).mean(1)
    assert found["images"] == len(images)
    assert found["dimensions"] == 16
    assert found["standardised"]["nats_per_dim"] == pytest.approx(float(nats.mean()), abs=1e-3)
    assert found["standard_error_nats_per_dim"] == pytest.approx(float(nats.std()) / len(images) ** 0.5, rel=1e-2)
    mean, std = (value.view(4, 1, 1) for value in (statistics.mean_D, statistics.std_D))
    raw = -Normal(mean + 0.2 * std, 1.1 * std).log_prob(latent)
    assert found["raw"]["nats_per_dim"] == pytest.approx(float(raw.mean()), abs=1e-3)
    assert found["raw"]["bits_per_dim"] == pytest.approx(float(raw.mean()) / math.log(2), abs=2e-3)


def test_the_number_is_the_seeds_and_not_the_batchs(tiny: Path) -> None:
    def nats(**settings: int) -> float:
        return float(measure_likelihood(opened(tiny), count=24, **settings)["standardised"]["nats_per_dim"])

    assert nats() == nats()
    assert nats(batch=24) == pytest.approx(nats(batch=5), abs=1e-4)
    assert nats(seed=1) != nats()


def test_probes_estimate_what_exact_derivatives_sum(tiny: Path) -> None:
    exact, probed = (measure_likelihood(opened(tiny), count=32, probes=probes) for probes in (None, 16))
    assert exact["solver"]["probes"] == "exact"
    difference = exact["standardised"]["nats_per_dim"] - probed["standardised"]["nats_per_dim"]
    assert abs(difference) < 0.05


def test_the_command_prints_words_or_json(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["likelihood", str(tiny), "--count", "8", "--split", "train", "--tolerance", "1e-4"]
    assert main(arguments) == 0
    words = capsys.readouterr().out
    assert "8 images (train): negative log-likelihood of latent means, given their class, 16 numbers each" in words
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['raw']['bits_per_dim']:.4f} bits/dim" in words
    assert found["solver"] == {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4, "probes": 1, "batch": 16}
    assert len(found["sha256"]["diffusion"]) == 64


def test_data_of_other_classes_is_refused(tiny: Path) -> None:
    run = opened(tiny)
    run.__dict__["denoiser"] = replace(run.denoiser, spec=replace(run.denoiser.spec, classes=("cat", "dog")))
    with pytest.raises(GaekitError, match="knows 2 classes, and its data has 10"):
        measure_likelihood(run, count=4)


def test_a_denoiser_of_ddpm_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(GaekitError, match="'ddpm' has no velocity"):
        measure_likelihood(opened(train(tmp_path, "ddpm", "dit")), count=4)
