"""A stage is declared once, and what is declared is what the recipe, the plan and its result have."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
from safetensors import safe_open

from gaekit.pipeline.plan import make_plan
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe, StageSection
from gaekit.sizing.describe import trained_networks
from gaekit.stages import STAGES, Stage, diffusion, stage_named


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def sections() -> dict[str, list[type[StageSection]]]:
    found = {name: get_args(info.annotation) for name, info in Recipe.model_fields.items()}
    return {
        name: own
        for name, types in found.items()
        if (own := [t for t in types if isinstance(t, type) and issubclass(t, StageSection)])
    }


def test_the_recipe_has_a_section_for_each_stage_in_their_order() -> None:
    assert list(sections()) == [stage.name for stage in STAGES]


def test_the_sections_that_hold_settings_of_a_training_are_those_that_train() -> None:
    trained = {name for name, types in sections().items() if any("train" in t.model_fields for t in types)}
    own = {name for name, types in sections().items() if any("training" in vars(t) for t in types)}
    assert own == trained == {"semantic", "autoencoder", "diffusion"}


def test_a_stage_comes_after_those_that_it_reads() -> None:
    for position, stage in enumerate(STAGES):
        assert set(stage.reads) <= {before.name for before in STAGES[:position]}


def test_each_training_of_a_recipe_has_networks_of_its_own(registry: Registry) -> None:
    recipe = load_recipe("smoke", registry)
    assert [name for name, _ in recipe.trainings()] == ["semantic", "autoencoder", "diffusion"]
    assert [n.stage for n in trained_networks(recipe, registry, 10)] == [
        "semantic", *["autoencoder"] * 4, "diffusion"
    ]  # fmt: skip
    imported = recipe.model_copy(update={"diffusion": None, "sample": None})
    assert [name for name, _ in imported.trainings()] == ["semantic", "autoencoder"]


def more_parts(recipe: Recipe) -> dict[str, Any]:
    return {**diffusion.parts(recipe), "latent_dim": recipe.latent_dim}


@pytest.mark.parametrize(
    "change", [{"revision": diffusion.STAGE.revision + 1}, {"parts": more_parts}, {"needs": ("latents",)}]
)
def test_the_plan_reads_what_a_stage_declares(
    change: dict[str, Any], registry: Registry, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("smoke", registry)
    before = make_plan(recipe, registry, tmp_path)["diffusion"]
    others = tuple(dataclasses.replace(s, **change) if s is diffusion.STAGE else s for s in STAGES)
    monkeypatch.setattr("gaekit.pipeline.plan.STAGES", others)
    assert make_plan(recipe, registry, tmp_path)["diffusion"].fingerprint != before.fingerprint


@pytest.mark.slow
def test_results_are_called_and_are_of_the_kind_that_their_stage_declares(tmp_path: Any, registry: Registry) -> None:
    changes = [f"{name}.train.steps=4" for name in ("semantic", "autoencoder", "diffusion")]
    recipe = load_recipe("smoke", registry, overrides=[*changes, "autoencoder.adversary=null", "sample.count=16"])
    view = run_recipe(recipe, registry, out=tmp_path)
    for name in view.record["stages"]:
        stage: Stage = stage_named(name)
        artifact = view.artifact(name)
        assert artifact.name == stage.artifact
        assert artifact.exists()
        if stage.kind is not None:
            with safe_open(artifact, framework="pt") as file:
                assert f'"kind": "{stage.kind}"' in file.metadata()["gaekit"]
