"""A resolved recipe, written and read again, is the same recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gaekit.plugins import Registry
from gaekit.recipe import dump, load_recipe, load_recipe_data, to_yaml
from gaekit.recipe.schema import Recipe

Load = Callable[..., Recipe]


def again(recipe: Recipe, registry: Registry, tmp_path: Path) -> Recipe:
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    return load_recipe(path, registry)


def test_a_recipe_survives_being_written(load: Load, registry: Registry, tmp_path: Path) -> None:
    recipe = load()
    assert again(recipe, registry, tmp_path) == recipe
    assert load_recipe_data(dump(recipe), registry) == recipe


def test_sections_from_elsewhere_survive(load: Load, registry: Registry, tmp_path: Path) -> None:
    recipe = load(("latents: {}", f"latents: {{from: {tmp_path}}}"))
    assert dump(recipe)["latents"] == {"from": str(tmp_path)}
    assert again(recipe, registry, tmp_path) == recipe


@pytest.mark.parametrize(
    "text",
    [
        "1e-4",
        "yes",
        "on",
        "null",
        "~",
        "010",
        "2026-01-01",
        "${HOME}",
        "$${X}",
        "a: b",
        "# no",
        "ünïcode",
        " x ",
        "",
        "1:30",
        "<<",
    ],
)
def test_text_that_looks_like_something_else_stays_text(
    load: Load, registry: Registry, tmp_path: Path, text: str
) -> None:
    recipe = load()
    dataset = recipe.dataset.model_copy(update={"root": text})
    odd = recipe.model_copy(update={"dataset": dataset})
    assert again(odd, registry, tmp_path) == odd


def test_every_default_is_written_out(load: Load) -> None:
    data = yaml.safe_load(to_yaml(load()))
    assert data["runtime"]["trackers"][0]["use"] == "tensorboard"
    assert data["diffusion"]["train"]["clip"] == 1.0
    assert data["autoencoder"]["weights"]["l2"] == 0.0
    assert data["sample"]["guidance"]["channels"] == "all"


def test_the_file_stays_in_the_order_of_the_stages(load: Load) -> None:
    assert list(yaml.safe_load(to_yaml(load()))) == list(Recipe.model_fields)
