# ruff: noqa: E501 -- a table of messages reads best with a line each
"""Recipes are read whole: typed at every depth, or refused with every problem, its line and what would be right."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaekit.api import ComponentConfig
from gaekit.errors import PluginError, RecipeError
from gaekit.plugins import Plugin, Registry, nested
from gaekit.recipe import check_recipe, load_component, load_recipe, load_recipe_data, load_section
from gaekit.recipe.schema import From, Recipe, Runtime, Semantic, Train

Load = Callable[..., Recipe]
Problems = Callable[..., list[str]]


def test_a_right_recipe_is_typed_at_every_depth(load: Load, registry: Registry) -> None:
    recipe = load()
    assert type(recipe) is Recipe
    found = [(kind, config) for kind, config in nested(recipe)]
    assert [kind for kind, _ in found].count("teacher") == 2
    for kind, config in found:
        assert type(config) is registry.classes[kind][config.use].Config
    assert recipe.autoencoder.noise.sigma == 0.2  # type: ignore[union-attr]
    assert recipe.autoencoder.train.lr == 1e-3  # type: ignore[union-attr]


def test_defaults_in_slots_are_typed_like_what_is_written(load: Load, registry: Registry) -> None:
    recipe = load(("aligner: {use: latent}\n", ""), ("semantic:\n  train: {steps: 10, batch: 8}\n", ""))
    assert type(recipe.aligner) is registry.classes["aligner"]["none"].Config
    assert [type(t) for t in recipe.runtime.trackers] == [registry.classes["tracker"]["tensorboard"].Config]
    assert [type(m) for m in recipe.dataset.extra] == [registry.classes["metric"]["psnr"].Config]  # type: ignore[attr-defined]


def test_sections_with_slots_inside_a_component_are_typed(load: Load, registry: Registry) -> None:
    parts = "{use: toy, root: nowhere, parts: [{by: {use: efficientnet_lite0, layer: head}}, {by: {use: timm, model: vgg11}}]}"
    dataset: Any = load(("{use: toy, root: nowhere}", parts)).dataset
    assert [type(p.teacher) for p in dataset.parts] == [
        registry.classes["teacher"]["efficientnet_lite0"].Config,
        registry.classes["teacher"]["timm"].Config,
    ]


def test_a_problem_in_a_section_inside_a_component_has_its_line(problems: Problems) -> None:
    parts = "\n  use: toy\n  root: nowhere\n  parts:\n    - by: {use: efficientnet_lite0}\n    - by:\n        use: efficientnet_lite0\n        layr: head"
    assert problems(("{use: toy, root: nowhere}", parts.replace("\n", "\n", 1))) == [
        "13: dataset.parts[1].by.layr: unknown key -- did you mean 'layer'?"
    ]


def test_recipes_compare_hash_and_pickle(load: Load) -> None:
    first, second = load(), load()
    assert first == second
    assert hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first.autoencoder)) == first.autoencoder
    assert load(overrides=("seed=1",)) != first


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("sigma: 0.2", "sigmaa: 0.2"), ["17: autoencoder.noise.sigmaa: unknown key -- did you mean 'sigma'?"]),
        (("    steps: 20\n", "    setps: 20\n"), ["23: autoencoder.train.setps: unknown key -- did you mean 'steps'?"]),
        (("    use: dynamic", "    ues: dynamic"), ["16: autoencoder.noise.ues: unknown key -- did you mean 'use'?"]),
        (("latents: {}", "latens: {}"), ["26: latens: unknown key -- did you mean 'latents'?"]),
        (("recipe: 1", "recip: 1"), ["2: recip: unknown key -- did you mean 'recipe'?"]),
        (("aligner: {use", "alinger: {use"), ["8: alinger: unknown key -- did you mean 'aligner'?"]),
        (("    - use: ssim", "    - us: ssim"), ["38: evaluate.metrics[1].us: unknown key -- did you mean 'use'?"]),
        (("latents: {}", "latents: {frm: a.pt}"), ["26: latents.frm: unknown key -- did you mean 'from'?"]),
        (("latents: {}", "latents: {zebra: 1}"), [
            "26: latents.zebra: unknown key -- known: batch, dtype, flip, images, normalize, online, "
            "precision, scale, store"]),
        (("{use: rms_norm}", "{use: rms_norm, zebra: 1}"), [
            "14: autoencoder.regularizer.zebra: unknown key -- 'rms_norm' knows: eps, use"]),
    ],
)  # fmt: skip
def test_an_unknown_key_is_one_problem_with_what_it_stands_for(
    problems: Problems, change: tuple[str, str], expected: list[str]
) -> None:
    assert problems(change) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("    use: dynamic", "    use: dynamc"), "16: autoencoder.noise.use: unknown noise 'dynamc' -- did you mean 'dynamic'?"),
        (("    use: dynamic\n", ""), "15: autoencoder.noise: say which noise with 'use: <name>' -- known: constant, dynamic, "),
        (("{use: rms_norm}", "rms_norm"), "14: autoencoder.regularizer: expected a regularizer: {use: rms_norm, ...}"),
        (("{use: rms_norm}", "null"), "14: autoencoder.regularizer: expected a section of keys and values, got nothing (null)"),
        (("    lr: 1e-3", "    lr: fast"), '25: autoencoder.train.lr: expected a number, got "fast"'),
        (("    lr: 1e-3", '    lr: "1e-3"'), '25: autoencoder.train.lr: expected a number, got "1e-3" -- remove the quotes'),
        (("    lr: 1e-3", "    lr: -1"), "25: autoencoder.train.lr: expected greater than 0, got -1"),
        (("    lr: 1e-3", "    lr: .inf"), "25: autoencoder.train.lr: expected a finite number, got Infinity"),
        (("    lr: 1e-3", "    lr: true"), "25: autoencoder.train.lr: expected a number, got true"),
        (("    steps: 20", "    steps: 20.5"), "23: autoencoder.train.steps: expected a whole number, got 20.5"),
        (("    steps: 20", "    steps: fast"), '23: autoencoder.train.steps: expected a whole number, got "fast"'),
        (("    steps: 20", "    steps:"), "23: autoencoder.train.steps: expected a whole number, got nothing (null)"),
        (("    lr: 1e-3", "    warmup: soon"), '25: autoencoder.train.warmup: expected a number, got "soon"'),
        (("    lr: 1e-3", "    betas: [0.9]"), "25: autoencoder.train.betas[1]: expected more entries, got a list of 1"),
        (("    lr: 1e-3", "    betas: [0.9, 1, 2]"), "25: autoencoder.train.betas: expected at most 2 entries, got 3"),
        (("    lr: 1e-3", "    betas: 0.9"), "25: autoencoder.train.betas: expected a list, got 0.9"),
        (("    lr: 1e-3", "    clip: big"), '25: autoencoder.train.clip: expected a number, got "big"'),
        (("name: base", "name: 7"), "3: name: expected text, got 7 -- put it in quotes"),
        (("name: base", "name: a/b"), '3: name: expected text of the form ^[A-Za-z0-9][A-Za-z0-9._-]*$, got "a/b"'),
        (("latents: {}", "latents: {flip: yes}"), '26: latents.flip: expected true or false, got "yes" -- in YAML 1.2 that is text; write true'),
        (("latents: {}", "latents: {store: means}"), "26: latents.store: expected 'mean' or 'moments', got \"means\" -- did you mean 'mean'?"),
        (("latents: {}", "latents: 3"), "26: latents: expected a section of keys and values, got 3"),
        (("count: 10", "count: [1]"), "34: sample.count: expected a whole number, got a list of 1"),
        (("  count: 10\n", ""), "31: sample.count: missing -- how many images"),
        (("image: {size: 32, stride: 8}", "image: {size: 32}"), "4: image.stride: missing -- pixels of a side for each latent position"),
        (("root: nowhere", "root: nowhere, shift: true"), "6: dataset: shift needs a fraction"),
        (("root: nowhere", "root: nowhere, fraction: 0"), "6: dataset.fraction: expected greater than 0, got 0"),
        (("root: nowhere", "root: nowhere, extra: []"), "6: dataset.extra: expected at least 1 entries, got 0"),
        (("root: nowhere", "root: nowhere, extra: psnr"), '6: dataset.extra: expected a list, got "psnr"'),
        (("recipe: 1", "recipe: 2"), "2: recipe: version 2 of the recipe format is not known; this gaekit reads version 1"),
        (("recipe: 1\n", ""), "1: recipe: missing -- the version of the recipe format; write `recipe: 1`"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_plain_words(problems: Problems, change: tuple[str, str], expected: str) -> None:
    found = problems(change)
    assert len(found) == 1
    assert found[0].startswith(expected)
    assert "pydantic" not in found[0]
    assert "Input" not in found[0]


def test_all_problems_are_told_at_once_by_line(problems: Problems) -> None:
    found = problems(
        ("name: base", "nam: base"),
        ("sigma: 0.2", "sigma: loud"),
        ("use: lightning_dit, depth: 1", "use: lightning_dti, depht: 1"),
        ("  count: 10\n", ""),
        ("    - use: ssim", "    - use: simm"),
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["3", "nam"],
        ["17", "autoencoder.noise.sigma"],
        ["28", "diffusion.denoiser.depht"],
        ["28", "diffusion.denoiser.use"],
        ["31", "sample.count"],
        ["37", "evaluate.metrics[1].use"],
    ]


def test_an_unknown_component_comes_with_a_note_of_broken_plugins(
    load: Load, registry: Registry, problems: Problems
) -> None:
    broken = Plugin("wild", "wild-things", "1.0", "wild", error="ImportError: no module named teeth")
    registry.plugins.append(broken)
    try:
        found = problems(("    use: dynamic", "    use: zzz"))
    finally:
        registry.plugins.remove(broken)
    assert found[0].startswith("16: autoencoder.noise.use: unknown noise 'zzz' -- known: constant, ")
    assert found[-1] == "  note: plugin wild (wild-things 1.0) failed to load: ImportError: no module named teeth"


def test_a_broken_plugin_is_no_matter_for_a_recipe_that_does_not_need_it(load: Load, registry: Registry) -> None:
    broken = Plugin("wild", "wild-things", "1.0", "wild", error="ImportError: no module named teeth")
    registry.plugins.append(broken)
    try:
        assert load().name == "base"
    finally:
        registry.plugins.remove(broken)


def test_a_section_may_come_from_elsewhere(load: Load, tmp_path: Path) -> None:
    artifact = tmp_path / "latents"
    artifact.mkdir()
    assert load(("latents: {}", f"latents: {{from: {artifact}}}")).latents == From(**{"from": str(artifact)})
    assert load(("semantic:\n  train: {steps: 10, batch: 8}\n", f"semantic: {{from: {artifact}}}\n")).semantic == From(
        **{"from": str(artifact)}
    )


def test_absent_sections_are_stages_that_do_not_run(load: Load, base: str) -> None:
    rest = base[base.index("diffusion:") : base.index("evaluate:")]
    recipe = load((rest, ""))
    assert recipe.diffusion is None
    assert recipe.sample is None


def test_another_name_for_the_run_is_checked_too(registry: Registry, write: Callable[..., Path]) -> None:
    assert load_recipe(write(), registry, name="other").name == "other"
    with pytest.raises(RecipeError, match="--name no/way: name: expected text of the form"):
        load_recipe(write(), registry, name="no/way")


def test_plain_data_make_a_recipe_with_problems_without_lines(load: Load, registry: Registry) -> None:
    data = load().model_dump(mode="json", by_alias=True)
    assert load_recipe_data(data, registry) == load()
    data["image"]["stride"] = 5
    with pytest.raises(RecipeError, match=r"^run 7: image\.stride: 5 does not divide the image size 32; 4 or 8 would$"):
        load_recipe_data(data, registry, source="run 7")


def test_a_component_alone_is_typed_by_its_plugin(registry: Registry) -> None:
    config = load_component("teacher", {"use": "efficientnet_lite0", "layer": "head"}, registry, source="x.safetensors")
    assert type(config) is registry.classes["teacher"]["efficientnet_lite0"].Config
    inner: Any = load_component("perceptual", {"use": "teacher", "teacher": config.model_dump()}, registry, source="x")
    assert inner.teacher == config
    with pytest.raises(PluginError, match="unknown teacher 'dinov9'"):
        load_component("teacher", {"use": "dinov9"}, registry, source="x")
    with pytest.raises(RecipeError, match=r"x\.safetensors: layr: unknown key -- did you mean 'layer'"):
        load_component("teacher", {"use": "efficientnet_lite0", "layr": "head"}, registry, source="x.safetensors")


def test_a_section_alone_is_typed(registry: Registry) -> None:
    runtime = load_section(Runtime, {"trackers": [{"use": "wandb", "project": "mine"}]}, registry, source="x")
    assert runtime.trackers[0].project == "mine"  # type: ignore[attr-defined]
    assert load_section(Semantic, {"train": {"steps": 1, "batch": 1}}, registry, source="x") == Semantic(
        train=Train(steps=1, batch=1)
    )


def test_configs_keep_their_slots_when_serialised(load: Load) -> None:
    dumped = load().model_dump(mode="json")
    assert dumped["autoencoder"]["noise"] == {"use": "dynamic", "sigma": 0.2}
    assert dumped["autoencoder"]["perceptual"]["teacher"]["layer"] == "stage2"
    assert dumped["runtime"]["trackers"][0]["use"] == "tensorboard"
    assert ComponentConfig(use="x").model_dump() == {"use": "x"}


def test_warnings_have_lines_and_do_not_stop(registry: Registry, write: Callable[..., Path]) -> None:
    path = write(("aligner: {use: latent}", "aligner: {use: none}"), ("    lr: 1e-3", "    precision: bf16"))
    checked = check_recipe(path, registry, overrides=["runtime.device=cpu"])
    assert [(w.line, w.dotted) for w in checked.warnings] == [
        (25, "autoencoder.train.precision"),
        (10, "semantic.train"),
    ]


def test_a_huge_file_is_no_recipe(registry: Registry, tmp_path: Path) -> None:
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecipeError, match=r"huge\.yaml: is longer than 10,000,000 bytes: not a recipe"):
        load_recipe(tmp_path / "huge.yaml", registry)


def test_a_file_that_cannot_be_read_is_no_traceback(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml:1: is not UTF-8 text \(byte 9\)"):
        load_recipe(path, registry)
