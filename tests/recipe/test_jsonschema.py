"""The JSON Schema for editors accepts right recipes and refuses wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from gaekit.plugins import Plugin, Registry, summary
from gaekit.recipe import list_recipes, to_yaml
from gaekit.recipe.document import read_document
from gaekit.recipe.jsonschema import json_schema
from gaekit.recipe.schema import Recipe

Load = Callable[..., Recipe]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def schema(registry: Registry) -> dict[str, Any]:
    return json_schema(registry)


def wrong(schema: dict[str, Any], data: Any) -> list[str]:
    return sorted(e.json_path for e in Draft202012Validator(schema).iter_errors(data))


def test_it_is_a_valid_schema_of_2020_12(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_right_recipes_pass(schema: dict[str, Any], base: str, load: Load) -> None:
    assert wrong(schema, read_document(base, "base").data) == []
    assert wrong(schema, yaml.safe_load(to_yaml(load()))) == []


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda r: r.name)
def test_shipped_recipes_pass(schema: dict[str, Any], recipe: Any) -> None:
    assert wrong(schema, read_document(recipe.path.read_text(), recipe.name).data) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("    sigma: 0.2", "    sigmaa: 0.2"), "$.autoencoder"),
        (("    use: dynamic", "    use: dynamc"), "$.autoencoder"),
        (("steps: 4}", "steps: 0}"), "$.sample"),
        (("    - use: ssim", "    - use: sim"), "$.evaluate"),
        (("name: base", "name: a/b"), "$.name"),
        (("seed", "sed"), "$"),
    ],
)
def test_wrong_recipes_do_not(schema: dict[str, Any], base: str, change: tuple[str, str], place: str) -> None:
    text = base.replace("latent_dim", "seed: 1\nlatent_dim").replace(*change)
    found = wrong(schema, read_document(text, "base").data)
    assert found
    assert all(path.startswith(place) for path in found)


def test_components_carry_their_help(schema: dict[str, Any], registry: Registry) -> None:
    use = schema["$defs"]["noise_dynamic"]["properties"]["use"]
    assert use["const"] == "dynamic"
    assert use["description"] == summary(registry.classes["noise"]["dynamic"])
    assert {"$ref": "#/$defs/noise_dynamic"} in schema["$defs"]["any_noise"]["oneOf"]


def test_a_kind_without_components_can_stand_nowhere(registry: Registry) -> None:
    few = Registry()
    few.add(registry.classes["noise"]["dynamic"], Plugin("few", "few", "1", "few"))
    schema = json_schema(few)
    Draft202012Validator.check_schema(schema)
    assert schema["$defs"]["any_teacher"]["not"] == {}
