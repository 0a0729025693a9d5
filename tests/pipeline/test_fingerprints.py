"""Fingerprints are those of yesterday, and change with what decides a result and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaekit.pipeline.plan import make_plan
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe

RECIPE = """
recipe: 1
name: golden
image: {size: 16, stride: 4}
latent_dim: 4
dataset: {use: digits}
teacher: {use: efficientnet_lite0, layer: stage3}
aligner: {use: latent, head_dim: 20}
semantic: {train: {steps: 3, batch: 8}}
autoencoder:
  encoder: {use: vit, depth: 1, width: 16, heads: 2}
  decoder: {use: vit, depth: 1, width: 16, heads: 2}
  regularizer: {use: rms_norm}
  noise: {use: dynamic}
  adversary: {start: 1}
  train: {steps: 3, batch: 8}
latents: {}
diffusion:
  denoiser: {use: lightning_dit, depth: 1, width: 16, heads: 2}
  times: {use: logit_normal}
  train: {steps: 4, batch: 8, schedule: cosine}
sample: {sampler: {use: euler}, count: 10}
evaluate: {metrics: [{use: psnr}]}
"""

GOLDEN = {
    "semantic": "506b8d4a153e",
    "autoencoder": "3ff0519649d1",
    "latents": "a26fdb299d4b",
    "diffusion": "76010ca31641",
    "sample": "fc7ce3bce3e1",
    "evaluate": "cf781bb5947a",
}
"""Of rooms that people have on their disks. Another one makes them train anew: it takes a raised revision, said in the
changelog."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def fingerprints(folder: Path, registry: Registry, *overrides: str) -> dict[str, str]:
    (folder / "golden.yaml").write_text(RECIPE)
    recipe = load_recipe(folder / "golden.yaml", registry, overrides=overrides)
    return {stage.name: stage.fingerprint[:12] for stage in make_plan(recipe, registry, folder / "store").stages}


def test_fingerprints_are_those_of_yesterday(tmp_path: Path, registry: Registry) -> None:
    assert fingerprints(tmp_path, registry) == GOLDEN


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("runtime.save_every=7", set()),
        ("name=other", set()),
        ("autoencoder.adversary.diffaug=false", set()),
        ("diffusion.betas=linear", set()),
        ("autoencoder.probe={every: 1}", set()),
        ("diffusion.probe={metrics: [{use: class_accuracy}], sampler: {use: heun}}", set()),
        ("semantic.train.steps=9", {"autoencoder", "latents", "diffusion", "sample", "evaluate"}),
        ("diffusion.train.steps=9", {"diffusion", "sample", "evaluate"}),
        ("teacher.layer=stage4", {"semantic", "autoencoder", "latents", "diffusion", "sample", "evaluate"}),
    ],
)
def test_they_change_with_what_decides_a_result(
    tmp_path: Path, registry: Registry, override: str, changed: set[str]
) -> None:
    before = fingerprints(tmp_path, registry)
    after = fingerprints(tmp_path, registry, override)
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_raised_revision_changes_its_stage_and_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = load_plugins()
    before = fingerprints(tmp_path, registry)
    monkeypatch.setattr(registry.find("noise", "dynamic"), "revision", 2)
    after = fingerprints(tmp_path, registry)
    assert [name for name in before if before[name] == after[name]] == ["semantic"]
