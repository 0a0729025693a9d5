"""What only building the networks finds is told by `check`, `plan` and `run` beforehand, at its key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_helpers import tiny_recipe

from gaekit.cli import main
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe.load import check_recipe
from gaekit.recipe.shipped import find_recipe
from gaekit.sizing.build import build_problems

Capture = pytest.CaptureFixture[str]
WRONG = {
    "diffusion.denoiser.heads=5": "diffusion.denoiser.heads: 5 heads cannot share",
    "autoencoder.decoder.heads=3": "autoencoder.decoder.heads: 3 heads cannot share",
    "autoencoder.encoder={use: conv}": "autoencoder.encoder.ch_mult: 4 levels have stride 8, image.stride is 4",
    "autoencoder.encoder={use: conv, ch_mult: [1, 1, 1], ch: 16}": "autoencoder.encoder.ch: a level of 16 channels",
    "diffusion.denoiser.width=1000000000": "diffusion.denoiser: cannot be built: RuntimeError",
    "diffusion.denoiser.depth=1000000000": "diffusion.denoiser: has more than 10,000 tensors",
    "latent_dim=4000000": "latent_dim: expected at most 65536",
    "image.size=31": "image.stride: 4 does not divide the image size 31",
    "latent_dim=" + "9" * 400: "latent_dim: is larger than any number",
    "sample={sampler: {use: euler}, count: 1000000000000}": "sample.count: expected at most 1e+09",
    "name=store": "name: 'store' is the folder in which all runs",
    "name=Store": "name: 'Store' is the folder",
    "name=" + "n" * 300: "name: ",
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(tiny_recipe())
    return path


@pytest.mark.parametrize("change", WRONG)
def test_it_is_told_at_its_key_and_by_the_option_that_is_to_blame(
    recipe: Path, tmp_path: Path, change: str, capsys: Capture
) -> None:
    for command in (["check"], ["plan", "--out", str(tmp_path)], ["run", "--out", str(tmp_path)]):
        assert main([command[0], str(recipe), *command[1:], "--set", change]) == 2
        assert f"--set {change}: {WRONG[change]}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_of_a_file_the_line_is_told(tmp_path: Path, capsys: Capture) -> None:
    text = tiny_recipe("diffusion: {denoiser: {heads: 5}}")
    (tmp_path / "wrong.yaml").write_text(text)
    (line,) = (number for number, words in enumerate(text.splitlines(), 1) if words.strip() == "heads: 5")
    assert main(["check", str(tmp_path / "wrong.yaml")]) == 2
    assert f"wrong.yaml:{line}: diffusion.denoiser.heads: 5 heads" in capsys.readouterr().err


def test_a_layer_that_a_teacher_does_not_have_is_told_at_the_teacher(registry: Registry) -> None:
    changed = check_recipe("gae_d32", registry, overrides=["teacher.layer=99"])
    (problem,) = map(changed.document.locate, build_problems(changed.recipe, registry))
    assert (problem.path, problem.origin) == (("teacher",), "--set teacher.layer=99")
    assert "it has 24 layers" in problem.text


def numbers(data: Any, at: tuple[str, ...] = ()) -> Iterator[str]:
    """The keys of all numbers in a recipe."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from numbers(value, (*at, key))
    elif isinstance(data, int | float) and not isinstance(data, bool) and at != ("recipe",):
        yield ".".join(at)


KEYS = list(numbers(yaml.safe_load(find_recipe("quickstart").read_text())))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["-1", "7", "1000000000", "9" * 30, ".inf", "text"])
def test_no_number_of_the_quickstart_makes_plan_end_in_a_traceback(
    key: str, value: str, tmp_path: Path, capsys: Capture
) -> None:
    code = main(["plan", "quickstart", "--out", str(tmp_path), "--set", f"{key}={value}"])
    assert code in (0, 2)
    assert ("problem" in capsys.readouterr().err) == (code == 2)
