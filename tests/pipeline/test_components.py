"""What an artifact of elsewhere was made of decides what is made with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_helpers import tiny_recipe
from rich.console import Console

from gaekit.errors import ArtifactError
from gaekit.pipeline.components import in_artifact
from gaekit.pipeline.plan import make_plan
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.stages import stage_named
from gaekit.store.artifact import open_artifact, save_artifact
from gaekit.train.progress import Reporter

RECIPE = tiny_recipe("""
sample: {sampler: {use: euler, steps: 2}, count: 10}
evaluate: {metrics: [{use: psnr}]}
runtime: {trackers: [], threads: 1}
""")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("components")
    recipe = load_recipe_data(yaml.safe_load(RECIPE), load_plugins())
    registry, quiet = load_plugins(), Reporter(Console(quiet=True))
    return run_recipe(recipe, registry, out=folder, until="diffusion", reporter=quiet).path


def fingerprints(run: Path, registry: Registry, **changes: Any) -> dict[str, str]:
    recipe = load_recipe_data({**yaml.safe_load(RECIPE), **changes}, registry)
    return {stage.name: stage.fingerprint for stage in make_plan(recipe, registry, run.parent / "other").stages}


def changed(run: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, **changes: Any) -> set[str]:
    """The stages of another fingerprint once a component's revision is raised."""
    registry = load_plugins()
    before = fingerprints(run, registry, **changes)
    cls = registry.find(kind, name)
    monkeypatch.setattr(cls, "revision", cls.revision + 1)
    after = fingerprints(run, registry, **changes)
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.mark.parametrize(("kind", "name"), [("encoder", "vit"), ("decoder", "vit"), ("regularizer", "rms_norm")])
def test_a_raised_revision_reaches_what_is_made_with_an_imported_autoencoder(
    run: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    taken = {"from": str(run)}
    assert changed(run, monkeypatch, kind, name, autoencoder=taken) == {
        "autoencoder", "latents", "diffusion", "sample", "evaluate"
    }  # fmt: skip


def test_a_raised_revision_reaches_what_is_sampled_from_an_imported_denoiser(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = changed(run, monkeypatch, "denoiser", "lightning_dit", diffusion={"from": str(run)})
    assert found == {"diffusion", "sample", "evaluate"}


def test_a_raised_revision_reaches_what_a_weak_denoiser_guides(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = yaml.safe_load(RECIPE)["sample"] | {"guidance": {"scale": 2.0, "weak": {"from": str(run)}}}
    sit = {"use": "sit", "depth": 1, "width": 16, "heads": 2}
    diffusion = yaml.safe_load(RECIPE)["diffusion"] | {"denoiser": sit}
    found = changed(run, monkeypatch, "denoiser", "lightning_dit", sample=sample, diffusion=diffusion)
    assert found == {"sample", "evaluate"}


def test_weights_outside_of_an_imported_artifact_count(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, taken = load_plugins(), {"from": str(run)}
    before = fingerprints(run, registry, autoencoder=taken)
    monkeypatch.setattr(registry.find("encoder", "vit"), "external", classmethod(lambda cls, config: "other weights"))
    assert fingerprints(run, registry, autoencoder=taken)["latents"] != before["latents"]


def test_an_artifact_with_a_component_that_is_none_is_named(run: Path, tmp_path: Path) -> None:
    stage = stage_named("autoencoder")
    config = open_artifact(run / "autoencoder" / "step-2" / stage.artifact, "autoencoder").config
    save_artifact(tmp_path / stage.artifact, "autoencoder", {**config, "encoder": "vit"}, {})
    with pytest.raises(ArtifactError, match="is no component"):
        list(in_artifact(stage, tmp_path / stage.artifact, load_plugins()))


AUTOENCODER = yaml.safe_load(RECIPE)["autoencoder"]
ADVERSARY = {"channels": 4, "layers": 1, "start": 1}
POST = {"use": "post", "loss": "mse"}
WHERE_IT_COUNTS: dict[str, dict[str, Any]] = {
    "adaptive adversary": {"autoencoder": {**AUTOENCODER, "adversary": {**ADVERSARY, "adaptive": True}}},
    "adaptive aligner": {"aligner": {**POST, "adaptive": True}, "teacher": {"use": "efficientnet_lite0"}},
    "standardize": {"autoencoder": {**AUTOENCODER, "regularizer": {"use": "standardize"}}},
}
WHERE_NOT: dict[str, dict[str, Any]] = {
    "adversary": {"autoencoder": {**AUTOENCODER, "adversary": ADVERSARY}},
    "aligner": {"aligner": POST, "teacher": {"use": "efficientnet_lite0"}},
}


def autoencoders(folder: Path, changes: dict[str, Any], *settings: tuple[int | None, int]) -> list[str]:
    """The fingerprint of an autoencoder of batch 8 at each (micro-batch, number of processes)."""
    registry, found = load_plugins(), []
    for micro, processes in settings:
        data = {**yaml.safe_load(RECIPE), **changes, "runtime": {"micro_batch": micro}}
        plan = make_plan(load_recipe_data(data, registry), registry, folder, processes=processes)
        found.append(plan["autoencoder"].fingerprint)
    return found


@pytest.mark.parametrize("changes", WHERE_IT_COUNTS.values(), ids=WHERE_IT_COUNTS)
def test_the_images_of_a_pass_count_where_they_change_the_objective(changes: dict[str, Any], tmp_path: Path) -> None:
    whole, *alike, four, of_two, two = autoencoders(
        tmp_path, changes, (None, 1), (8, 1), (16, 1), (4, 2), (None, 4), (4, 1), (2, 2), (2, 1)
    )
    assert set(alike) == {whole}
    assert four == of_two
    assert len({whole, four, two}) == 3


@pytest.mark.parametrize("changes", WHERE_NOT.values(), ids=WHERE_NOT)
def test_the_images_of_a_pass_do_not_count_elsewhere(changes: dict[str, Any], tmp_path: Path) -> None:
    assert len(set(autoencoders(tmp_path, changes, (None, 1), (4, 1), (2, 2), (2, 1)))) == 1
