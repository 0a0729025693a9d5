"""What fingerprints hash: sorted, plain, and without fields that do nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gaekit.api import ComponentConfig, Slot
from gaekit.recipe import canonical
from gaekit.recipe.schema import Latents, Recipe, Section, Train, neutral


class Old(Section):
    zeta: int = 1
    alpha: float = 0.5


class New(Old):
    effect: float = neutral(0.0, description="new, and off by default")


def test_a_new_field_at_its_neutral_value_changes_nothing() -> None:
    assert canonical(New()) == canonical(Old()) == {"alpha": 0.5, "zeta": 1}
    assert canonical(New(effect=0.1)) == {"alpha": 0.5, "effect": 0.1, "zeta": 1}


def test_a_default_that_does_something_is_kept() -> None:
    assert canonical(Latents(flip=True))["flip"] is True
    assert "scale" not in canonical(Latents())
    assert canonical(Latents(normalize="scalar", scale=0.18215))["scale"] == 0.18215


def test_a_number_is_the_same_however_it_is_written() -> None:
    assert canonical(Train(steps=1, batch=1, lr=1)) == canonical(Train(steps=1, batch=1, lr=1.0))


def test_keys_are_sorted_and_values_plain() -> None:
    class Outer(ComponentConfig):
        teacher: Annotated[ComponentConfig, Slot("teacher")]
        place: Path = Path("a/b")
        names: frozenset[str] = frozenset({"b", "a"})
        table: dict[str, int] = Field(default={"y": 1, "x": 2})

    found = canonical(Outer(use="outer", teacher=Inner(use="inner", depth=3)))
    assert found == {
        "names": ["a", "b"],
        "place": "a/b",
        "table": {"x": 2, "y": 1},
        "teacher": {"depth": 3, "use": "inner"},
        "use": "outer",
    }
    assert json.dumps(found) == json.dumps(found, sort_keys=True)


class Inner(ComponentConfig):
    depth: int


def test_a_whole_recipe_has_a_form_that_survives_json(load: Callable[..., Recipe]) -> None:
    form = canonical(load())
    assert json.loads(json.dumps(form)) == form
    assert form["autoencoder"]["noise"] == {"sigma": 0.2, "use": "dynamic"}
    assert canonical(load(overrides=("seed=3",))) != form
