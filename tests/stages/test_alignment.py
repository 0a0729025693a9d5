"""What alignment is for, with a teacher that knows everything: its class and layout get into the latents, which the
denoiser then predicts better."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from gaekit.api import ComponentConfig, Teacher
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Plugin, Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.runs.opened import open_run
from gaekit.train.progress import Reporter

CLASSES, SCAN = 10, 8


class Oracle(Teacher):
    """Names the class of a digit, which it finds among scikit-learn's scans, and the layout: four scan pixels of each
    place, and where the place is."""

    name = "oracle"
    Config = ComponentConfig
    feature_dim = CLASSES + 4 + 2

    @classmethod
    def external(cls, config: Any) -> str:
        """It has no weights."""
        return "scikit-learn's digits"

    @cached_property
    def _scans(self) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        data: Any = load_digits()
        return torch.from_numpy(data.images / 16).float().flatten(1), torch.from_numpy(data.target)

    def forward(self, image_B3RR: Tensor) -> Tensor:
        """Images in [-1, 1] -> (B, 16, grid, grid)."""
        scan_BSS = F.adaptive_avg_pool2d(image_B3RR.mean(1, keepdim=True).float() / 2 + 0.5, SCAN)[:, 0]
        known_NP, label_N = self._scans
        label_B = label_N[torch.cdist(scan_BSS.flatten(1), known_NP).argmin(1)]
        named = F.one_hot(label_B, CLASSES).float()[:, :, None, None].expand(-1, -1, self.grid, self.grid)
        layout = F.interpolate(F.pixel_unshuffle(scan_BSS[:, None], 2), size=(self.grid, self.grid))
        line = torch.linspace(-1, 1, self.grid)
        place = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(len(layout), -1, -1, -1)
        return torch.cat([named, layout, place], 1)


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = load_plugins()
    found.add(Oracle, Plugin("oracle", "tests", "1", "tests"))
    return found


def numbers(folder: Path, registry: Registry, *changes: str) -> dict[str, float]:
    """The quickstart in short; the last value of its denoiser's held-out loss among the numbers, as "loss"."""
    short = (
        "semantic.train.steps=150", "autoencoder.train.steps=400", "diffusion.train.steps=600",
        "autoencoder.probe=null", "diffusion.probe={every: 600, loss: {images: 256, times: 8}}",
        "sample.also_unguided=false", "sample.count=20", "sample.sampler.steps=5", "runtime.report=false",
        "evaluate.metrics=[{use: psnr}, {use: linear_probe}]",
    )  # fmt: skip
    recipe = load_recipe("quickstart", registry, overrides=(*short, *changes))
    view = run_recipe(recipe, registry, out=folder, reporter=Reporter(Console(quiet=True)))
    run = open_run(view.path)
    loss = run.stages["diffusion"].curves.scalars["probe/loss/ema"][-1][1]
    return {name: entry["value"] for name, entry in run.metrics.items()} | {"loss": loss}


@pytest.mark.slow  # python -m pytest -m slow tests/stages/test_alignment.py: about five minutes
def test_a_teacher_that_knows_the_class_makes_latents_that_tell_it_and_that_a_denoiser_predicts_better(
    tmp_path: Path, registry: Registry
) -> None:
    """Nothing is said of samples: this denoiser is given the class anyhow, and where the latent holds it there is less
    room for pixels, so that the distance of its samples does not fall."""
    none = ("teacher=null", "aligner={use: none}", "semantic={}")
    aligned = ("teacher={use: oracle}", "aligner={use: latent, head_dim: 8, weight: 0.5}")
    for seed in (0, 1):
        without = numbers(tmp_path / "without", registry, *none, f"seed={seed}", "name=without")
        with_it = numbers(tmp_path / "with", registry, *aligned, f"seed={seed}", "name=with")
        assert with_it["latents/linear_probe_pool"] > max(0.9, without["latents/linear_probe_pool"] + 0.2)
        assert with_it["loss"] < 0.9 * without["loss"]
        assert with_it["reconstruction/psnr"] < without["reconstruction/psnr"]
