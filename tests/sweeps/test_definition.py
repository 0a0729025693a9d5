"""A sweep's file: what it means, and what is wrong with it, by line, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_helpers import GRID, make_sweep, write

from gaekit.cli import main
from gaekit.errors import ArtifactError, GaekitError, RecipeError
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.sweeps.definition import read_sweep, sweep_of_options
from gaekit.sweeps.folder import SweepFolder
from gaekit.sweeps.labels import short_names
from gaekit.sweeps.members import check_members


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def test_every_combination_is_run_with_every_seed(tmp_path: Path, registry: Registry) -> None:
    sweep = make_sweep(tmp_path, registry)
    found = [(m.recipe.diffusion.denoiser.depth, m.recipe.sample.guidance.scale, m.recipe.seed) for m in sweep.members]  # type: ignore[union-attr]
    assert found == [(depth, scale, seed) for depth in (1, 2) for scale in (1.0, 1.5) for seed in (0, 1)]
    assert {m.recipe.diffusion.train.steps for m in sweep.members} == {3}  # type: ignore[union-attr]
    assert sweep.members[3].run == "tries.depth_1-scale_1.5-seed_1"
    assert len({m.run for m in sweep.members}) == 8


def test_listed_members_come_beside_the_grid_and_without_seeds_the_recipes_own_is_used(
    tmp_path: Path, registry: Registry
) -> None:
    members = "members: [{name: cold, set: {sample.guidance.scale: 0.5}}, {set: {diffusion.label_dropout: 0.2}}]\n"
    sweep = make_sweep(tmp_path, registry, GRID.replace("seeds: [0, 1]\n", members))
    assert [m.label for m in sweep.members][3:] == ["depth_2-scale_1.5", "cold", "label_dropout_0.2"]
    assert [m.recipe.seed for m in sweep.members] == [0] * 6
    assert sweep.members[4].recipe.sample.guidance.scale == 0.5  # type: ignore[union-attr]
    assert sweep.members[5].recipe.diffusion.train.steps == 3  # type: ignore[union-attr]


def test_the_command_of_a_run_makes_its_very_recipe(tmp_path: Path, registry: Registry) -> None:
    values = """
  dataset: [{use: image_folder, root: "a b/$${HOME}/ü'\\"=,"}, {use: digits}]
  evaluate.metrics: [[{use: psnr}], [{use: psnr}, {use: ssim}]]
  diffusion.train.warmup: [1, 0.5]
  runtime.images_every: [null]
  latents.flip: [true]
  diffusion.times: [{use: logit_normal, mean: -0.5}]
  diffusion.path: [linear]
"""
    head, _, _ = GRID.partition("\n  diffusion.denoiser")
    sweep = make_sweep(tmp_path, registry, f"{head}{values}seeds: [3]\n")
    assert len({m.label for m in sweep.members}) == 8
    for member in sweep.members:
        verb, recipe, *options = member.command
        overrides = [word for flag, word in zip(options[::2], options[1::2], strict=True) if flag == "--set"]
        assert (verb, options[-2:]) == ("run", ["--name", member.run])
        assert load_recipe(recipe, registry, overrides=overrides, name=member.run) == member.recipe


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("depth: [1, 2]", "dept: [1, 2]", "sweep.yaml:7: diffusion.denoiser.dept: unknown key -- did you mean"),
        ("[1, 2]", "[1, four]", 'sweep.yaml:7: diffusion.denoiser.depth: expected a whole number, got "four"'),
        ("steps: 3", "steps: -3", "sweep.yaml:5: diffusion.train.steps: expected greater than 0"),
        ("scale: [1.0, 1.5]", "scale: 1.5", "sweep.yaml:8: grid.sample.guidance.scale: expected a list, got 1.5"),
        ("[1.0, 1.5]", "[1.5, 1.5]", "sweep.yaml:8: grid.sample.guidance.scale[1]: 1.5 is given twice"),
        ("seeds:", "seds:", "sweep.yaml:9: seds: unknown key -- did you mean 'seeds'?"),
        ("[0, 1]", "[0, -1]", "sweep.yaml:9: seeds[1]: expected at least 0, got -1"),
        ("[0, 1]", "[1, 1]", "sweep.yaml:9: seeds[1]: 1 is given twice"),
        ("diffusion.train.steps", "seed", "sweep.yaml:5: set.seed: seeds are given by"),
        ("diffusion.train.steps", "name", "sweep.yaml:5: set.name: the runs of a sweep are named by it"),
        ("diffusion.train.steps", "a b", "sweep.yaml:5: set.a b: is no key of a recipe"),
        ("diffusion.train.steps", "sample.guidance.scale", "sweep.yaml:5: set.sample.guidance.scale: is swept by the"),
        ("sweep: 1", "sweep: 2", "sweep.yaml:1: sweep: expected 1"),
        ("tiny.yaml", "tny.yaml", "sweep.yaml:3: recipe: there is no recipe"),
        ("tiny.yaml", "quckstart", "did you mean 'quickstart'?"),
        ("name: tries", "name: a/b", "sweep.yaml:2: name: expected text of the form"),
        ("[0, 1]", "[" + ", ".join(map(str, range(400))) + "]", "sweep.yaml:6: grid: asks for 1,600 runs"),
        ("seeds:", "members: [{set: {sample.guidance.scale: 1.5, diffusion.denoiser.depth: 2}}]\nseeds:",
         "sweep.yaml:9: 'scale_1.5-depth_2' is the same experiment as 'depth_2-scale_1.5'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_line(tmp_path: Path, registry: Registry, old: str, new: str, told: str) -> None:
    assert old in GRID
    with pytest.raises(RecipeError) as caught:
        make_sweep(tmp_path, registry, GRID.replace(old, new, 1))
    assert told in str(caught.value)
    assert len(caught.value.problems) == 1, caught.value


def test_networks_that_cannot_be_built_are_told_by_the_value_that_asks_for_them(
    tmp_path: Path, registry: Registry
) -> None:
    text = GRID.replace("depth: [1, 2]", "heads: [2, 3]")
    with pytest.raises(RecipeError, match=r"sweep.yaml:7: diffusion.denoiser"):
        make_sweep(tmp_path, registry, text)


def options(registry: Registry, folder: Path, *swept: str, overrides: tuple[str, ...] = ()) -> Any:
    write(folder, GRID)
    return sweep_of_options(str(folder / "tiny.yaml"), swept, registry, overrides)


def test_commas_after_sweep_divide_values_and_a_list_after_set_is_one(tmp_path: Path, registry: Registry) -> None:
    found = options(
        registry, tmp_path, "diffusion.times={use: uniform},{use: logit_normal, mean: 1}", "seed=3,4",
        "diffusion.train.betas=[0.9, 0.95],[0.8, 0.9]", overrides=("evaluate.metrics=[{use: psnr}]",),
    )  # fmt: skip
    sweep = check_members(found, registry)
    assert [setting.label for setting in found.settings] == [
        "times_uniform-betas_0.9-0.95", "times_uniform-betas_0.8-0.9",
        "times_logit-normal-1-betas_0.9-0.95", "times_logit-normal-1-betas_0.8-0.9",
    ]  # fmt: skip
    assert [(m.seed, m.recipe.diffusion.train.betas) for m in sweep.members][:3] == [  # type: ignore[union-attr]
        (3, (0.9, 0.95)), (4, (0.9, 0.95)), (3, (0.8, 0.9)),
    ]  # fmt: skip
    assert all(len(m.recipe.evaluate.metrics) == 1 for m in sweep.members)  # type: ignore[union-attr]
    assert found.name == "tiny-times-betas"


@pytest.mark.parametrize(
    ("swept", "told"),
    [
        ("diffusion.denoiser.depth", "--sweep diffusion.denoiser.depth: write it as --sweep section.key=1,2,4"),
        ("diffusion.train.betas=[0.9, 0.95]", "is one value, a list; to try each of its entries write --sweep"),
        (
            "diffusion.denoiser.depth=1,four",
            "--sweep diffusion.denoiser.depth=1,four: diffusion.denoiser.depth: expected",
        ),
        ("diffusion.denoiser.depth=1,{", "not valid YAML"),
        ("diffusion.denoiser.depth=", "expected at least 1 entries, got 0"),
        ("seed=0,a", "--sweep seed=0,a: seeds[1]: expected a whole number"),
    ],
)
def test_what_is_wrong_with_an_option_is_told_by_the_option(
    tmp_path: Path, registry: Registry, swept: str, told: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        check_members(options(registry, tmp_path, swept), registry)
    assert told in str(caught.value)


def test_a_key_that_is_swept_twice_or_set_and_swept_is_refused(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RecipeError, match="swept twice"):
        options(registry, tmp_path, "diffusion.denoiser.depth=1", "diffusion.denoiser.depth=2")
    with pytest.raises(RecipeError, match=r"--set diffusion.denoiser.depth=2: .* is swept"):
        options(registry, tmp_path, "diffusion.denoiser.depth=1", overrides=("diffusion.denoiser.depth=2",))


def test_of_too_many_values_no_pairs_are_compared(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(file: Any) -> Any:
        raise AssertionError("all pairs of 2,000 values")

    monkeypatch.setattr("gaekit.sweeps.definition._twice", never)
    values = ", ".join(map(str, range(2000)))
    write(tmp_path, GRID.replace("depth: [1, 2]", f"depth: [{values}]"))
    with pytest.raises(RecipeError, match="runs; a sweep has at most 1,000"):
        read_sweep(tmp_path / "sweep.yaml", registry)


def test_keys_are_told_apart_by_the_shortest_of_their_endings() -> None:
    keys = ("autoencoder.train.lr", "diffusion.train.lr", "autoencoder.noise.use", "evaluate.metrics[0]", "seed")
    assert list(short_names(keys).values()) == [
        "autoencoder.train.lr",
        "diffusion.train.lr",
        "noise",
        "metrics.0",
        "seed",
    ]


def test_long_settings_have_short_names_of_their_own(tmp_path: Path, registry: Registry) -> None:
    keys = "".join(f"  autoencoder.{key}: [16, 32]\n" for key in ("encoder.width", "decoder.width"))
    sweep = make_sweep(tmp_path, registry, GRID.replace("seeds: [0, 1]\n", keys))
    assert len({m.label for m in sweep.members}) == 16
    assert all(len(m.run) <= 100 and len(m.label) <= 44 for m in sweep.members)
    assert {len(m.label) for m in sweep.members} == {44}


def test_a_recipe_is_no_sweep_and_a_sweep_no_recipe(
    tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, GRID)
    with pytest.raises(RecipeError, match=r"this is a recipe, not a sweep; `gaekit run .*tiny.yaml` runs it"):
        read_sweep(tmp_path / "tiny.yaml", registry)
    assert main(["check", str(file)]) == 2
    assert "sweep.yaml:1: sweep: this is a sweep over a recipe; `gaekit sweep FILE` runs it" in capsys.readouterr().err
    with pytest.raises(GaekitError, match="there is no sweep"):
        read_sweep(tmp_path / "none.yaml", registry)


@pytest.mark.parametrize("text", ["[]", "3", '{"code": "bad"}', "[" * 5000, "{"])
def test_a_damaged_record_of_how_a_run_ended_is_named(tmp_path: Path, text: str) -> None:
    claim = SweepFolder.of("tries", tmp_path).claim("one")
    claim.room.path.mkdir(parents=True)
    (claim.room.path / "outcome.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"outcome\.json: damaged"):
        _ = claim.outcome
