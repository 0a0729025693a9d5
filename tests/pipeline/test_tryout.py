"""`--try` makes a recipe short without touching what decides whether it fits, and begins from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaekit.errors import GaekitError
from gaekit.pipeline.rooms import stored_rooms
from gaekit.pipeline.tryout import IMAGES, begin_afresh, memory_line, try_overrides
from gaekit.pipeline.view import View
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe
from gaekit.recipe.shipped import list_recipes
from gaekit.stages.data import Data
from gaekit.store.curves import line_of


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def shortened(name: str, registry: Registry, processes: int, on_cpu: bool) -> tuple[Recipe, Recipe]:
    """A recipe, and what `--try` makes of it, held to every rule of recipes."""
    recipe = load_recipe(name, registry)
    changes = try_overrides(recipe, processes=processes, on_cpu=on_cpu)
    return recipe, load_recipe(name, registry, overrides=changes)


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()])
@pytest.mark.parametrize(("processes", "on_cpu"), [(1, True), (2, False)])
def test_every_recipe_is_tried_in_two_steps_with_the_networks_it_has(
    name: str, processes: int, on_cpu: bool, registry: Registry
) -> None:
    whole, small = shortened(name, registry, processes, on_cpu)
    for (stage, train), (_, before) in zip(small.trainings(), whole.trainings(), strict=True):
        assert train.steps == 2, stage
        once = min(whole.runtime.micro_batch or before.batch, before.batch // processes)
        assert train.batch == processes * (min(8, once) if on_cpu else once), stage
    for section in ("image", "teacher", "aligner", "latent_dim", "dataset"):
        assert getattr(small, section) == getattr(whole, section)
    for stage in ("autoencoder", "diffusion"):
        for part in ("encoder", "decoder", "denoiser", "perceptual"):
            assert getattr(getattr(small, stage), part, None) == getattr(getattr(whole, stage), part, None)
    if small.sample and whole.sample:
        assert small.sample.count == min(IMAGES, whole.sample.count)
        assert small.sample.batch == (min(8, whole.sample.batch) if on_cpu else whole.sample.batch)
    adversary = getattr(small.autoencoder, "adversary", None)
    assert adversary is None or (adversary.start, adversary.warmup) == (1, 0)  # it joins in the second step


def test_a_few_images_are_of_every_class_and_have_a_digest_of_their_own(registry: Registry) -> None:
    recipe = load_recipe("smoke", registry)
    few, whole = Data(recipe, registry, IMAGES), Data(recipe, registry)
    for split in ("train", "validation"):
        images = few.images(split)
        assert len(images) == IMAGES < len(whole.images(split))
        assert images.labels is not None
        counts = images.labels.bincount(minlength=10).tolist()
        assert (min(counts), max(counts)) == (2, 3)
    batch = few.images("train").batch([0, 1], [False, False])
    assert batch.label_B.tolist() == few.images("train").labels[:2].tolist()  # type: ignore[index]
    assert few.digest != whole.digest


def made(out: Path, name: str) -> View:
    """A run as it leaves itself, with one room of its own."""
    room = out / "store/diffusion" / f"of_{name}"
    room.mkdir(parents=True)
    (room / "stage.json").write_text("{}")
    entry = {"status": "done", "identity": "x", "artifact": "a", "room": f"store/diffusion/of_{name}", "subfolder": ""}
    view = View(out / name)
    view.path.mkdir()
    view.open({"name": name, "stages": {"diffusion": entry}}, "recipe: 1")
    return view


def test_a_trial_removes_the_one_before_it_and_no_other(tmp_path: Path) -> None:
    mine, other = made(tmp_path, "mine"), made(tmp_path, "other")
    begin_afresh(mine)
    assert not mine.path.exists()
    assert [stored.used_by for stored in stored_rooms(tmp_path)] == [(other.path.name,)]
    begin_afresh(mine)  # there is none
    assert [stored.used_by for stored in stored_rooms(tmp_path)] == [(other.path.name,)]


def test_the_most_memory_of_each_training_is_told_where_a_gpu_tells_it(tmp_path: Path) -> None:
    view = made(tmp_path, "mine")
    assert memory_line(view) is None
    lines = [line_of(step, 1.0, {"train/peak_memory_gib": peak}) for step, peak in ((1, 10.25), (2, 12.3))]
    (tmp_path / "store/diffusion/of_mine/curves.jsonl").write_bytes(b"".join(lines))
    assert memory_line(view) == "most memory of the GPU: diffusion 12.3 GiB"


def test_a_run_in_the_place_of_the_folder_of_trials_is_left_alone(tmp_path: Path) -> None:
    run = made(tmp_path, "try")
    with pytest.raises(GaekitError, match="is a run of that name"):
        begin_afresh(View(run.path / "mine"))
    assert run.record["name"] == "try"
