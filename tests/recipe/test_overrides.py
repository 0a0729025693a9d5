"""`--set` changes a recipe through the same validation, and its errors name the option."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gaekit.recipe.schema import Recipe

Load = Callable[..., Recipe]
Problems = Callable[..., list[str]]


def test_values_are_yaml_and_typed(load: Load) -> None:
    recipe = load(
        overrides=("autoencoder.train.steps=1e3", "sample.guidance.scale=1", "name=other", "teacher.layer=head")
    )
    assert recipe.autoencoder.train.steps == 1000  # type: ignore[union-attr]
    assert recipe.sample is not None
    assert recipe.sample.guidance.scale == 1.0
    assert recipe.name == "other"
    assert recipe.teacher.layer == "head"  # type: ignore[union-attr]


@pytest.mark.parametrize("key", ["evaluate.metrics[1].use", "evaluate.metrics.1.use"])
def test_entries_of_lists_are_counted_from_0(load: Load, key: str) -> None:
    recipe = load(overrides=(f"{key}=psnr",))
    assert recipe.evaluate is not None
    assert [m.use for m in recipe.evaluate.metrics] == ["psnr", "psnr"]


def test_sections_that_are_absent_or_null_are_made(load: Load) -> None:
    recipe = load(overrides=("runtime.workers=2", "autoencoder.weights.l2=0.5"))
    assert recipe.runtime.workers == 2
    assert recipe.autoencoder.weights.l2 == 0.5  # type: ignore[union-attr]


def test_a_part_is_taken_out_by_null(load: Load) -> None:
    recipe = load(overrides=("aligner.use=none", "teacher=null", "semantic={}", "autoencoder.perceptual=null"))
    assert recipe.teacher is None
    assert recipe.autoencoder.perceptual is None  # type: ignore[union-attr]


def test_another_component_keeps_the_keys_that_fit_it(load: Load, problems: Problems) -> None:
    recipe = load(overrides=("sample.sampler.use=heun",))
    assert recipe.sample is not None
    assert recipe.sample.sampler.steps == 4  # type: ignore[attr-defined]
    (line,) = problems(overrides=("autoencoder.noise.use=constant",))
    assert line.startswith("17: autoencoder.noise.sigma: unknown key -- 'constant' knows: ")
    assert load(overrides=("autoencoder.noise={use: constant}",)).autoencoder.noise.use == "constant"  # type: ignore[union-attr]


def test_later_options_win(load: Load) -> None:
    assert load(overrides=("seed=1", "seed=2")).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("autoencoder.train.setps=3", "autoencoder.train.setps: unknown key -- did you mean 'steps'?"),
        ("autoencoder.trian.steps=3", "autoencoder.trian: unknown key -- did you mean 'train'?"),
        ("autoencodr.train.steps=3", "autoencodr: unknown key -- did you mean 'autoencoder'?"),
        ("autoencoder.train.steps=many", 'autoencoder.train.steps: expected a whole number, got "many"'),
        ("autoencoder.noise.use=dynamc", "autoencoder.noise.use: unknown noise 'dynamc' -- did you mean 'dynamic'?"),
        ("name.first=x", "name: holds a single value, so there is no 'first' in it"),
        ("evaluate.metrics[2].use=psnr", "evaluate.metrics: there is no entry '2' in this list of 2"),
        ("evaluate.metrics.last.use=psnr", "evaluate.metrics: there is no entry 'last' in this list of 2"),
        ("seed", "write it as --set section.key=value"),
        ("=3", "write it as --set section.key=value"),
        ("a..b=3", "write it as --set section.key=value"),
        ("seed=[1", "seed: not valid YAML: expected ',' or ']'"),
        ("seed={a: 1, a: 2}", "seed.a: key given twice, first on line 1"),
    ],
)
def test_an_error_names_the_option(problems: Problems, override: str, message: str) -> None:
    (line,) = problems(overrides=(override,))
    assert line.startswith(f"--set {override}: {message}")


def test_what_the_option_makes_wrong_by_a_rule_names_it_too(problems: Problems) -> None:
    assert problems(overrides=("image.stride=5",)) == [
        "--set image.stride=5: image.stride: 5 does not divide the image size 32; 4 or 8 would"
    ]


def test_a_variable_in_a_value_is_filled_in(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAEKIT_HERE", "/data")
    assert load(overrides=("dataset.root=${GAEKIT_HERE}/x",)).dataset.root == "/data/x"  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", ["\u00b2", "9" * 5000])
@pytest.mark.parametrize("form", ["evaluate.metrics.{}.use=psnr", "evaluate.metrics[{}].use=psnr"])
def test_an_index_that_is_none_is_told(problems: Problems, form: str, index: str) -> None:
    assert all("--set" in line for line in problems(overrides=(form.format(index),)))
    assert problems(overrides=(form.format(index),))
