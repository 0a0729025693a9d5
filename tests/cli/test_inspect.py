"""The commands that look: what they print, where, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from gaekit import __version__
from gaekit.cli import main
from gaekit.plugins import load_plugins
from gaekit.recipe import find_recipe, list_recipes, list_sweeps

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in any folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("recipe", [recipe.name for recipe in list_recipes()])
def test_every_shipped_recipe_is_ok_without_its_data(recipe: str, capsys: Capture) -> None:
    assert main(["check", recipe]) == 0
    out, err = capsys.readouterr()
    text = find_recipe(recipe).read_text(encoding="utf-8")
    name = yaml.safe_load(text)["name"]
    assert name.removeprefix("ablation_") == recipe.removeprefix("ablations/")
    assert out.startswith(f"ok: {find_recipe(recipe)}: '{name}', ")
    assert out.count("\n") == 1
    taken = text.count("\nautoencoder: {from: ")  # what is yet to be imported is told, and is no error
    assert err.count("\n") == err.count("autoencoder.from: there is no artifacts/") == taken


def test_check_sums_a_recipe_up(capsys: Capture) -> None:
    main(["check", "smoke", "--set", "name=other", "--set", "sample.count=7"])
    out = capsys.readouterr().out
    assert "'other', 32 px to latents of 4 x 4 x 4; autoencoder vit/vit, 8 steps of 16 aligned with " in out
    assert "; 7 samples by euler; metrics psnr, ssim, " in out


def test_check_tells_all_problems_on_stderr_and_ends_with_2(elsewhere: Path, capsys: Capture) -> None:
    text = find_recipe("smoke").read_text().replace("latent_dim: 4", "latentdim: 4").replace("count: 40", "count: lots")
    (elsewhere / "bad.yaml").write_text(text)
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines, 1) if line.startswith("latentdim"))
    second = next(i for i, line in enumerate(lines, 1) if "count: lots" in line)
    assert main(["check", "bad.yaml", "--set", "seed=x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        '--set seed=x: seed: expected a whole number, got "x"',
        f"bad.yaml:{first}: latentdim: unknown key -- did you mean 'latent_dim'?",
        f'bad.yaml:{second}: sample.count: expected a whole number, got "lots"',
        "3 problems",
    ]


def test_check_warns_of_what_is_probably_not_meant(capsys: Capture) -> None:
    changes = ["--set", "runtime.device=cpu", "--set", "diffusion.train.precision=bf16"]
    assert main(["check", "smoke", *changes]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ok: ")
    assert err == (
        "warning: --set diffusion.train.precision=bf16: diffusion.train.precision: bf16 is slower than float32 on most "
        "CPUs; `auto` decides by the device\n"
    )


def test_a_recipe_that_is_not_there_is_one_line(capsys: Capture) -> None:
    assert main(["check", "quikstart"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no shipped recipe is called 'quikstart' -- did you mean 'quickstart'?; shipped: ")
    assert err.count("\n") == 1


def test_plugins_are_listed_for_people_and_for_programs(capsys: Capture) -> None:
    assert main(["plugins"]) == 0
    listed, provided = capsys.readouterr().out.split("\n\n")
    head, *rows = listed.splitlines()
    assert head.split() == ["plugin", "distribution", "version", "API", "loaded", "in", "status"]
    assert "noises        noise:constant, noise:dynamic, " in provided
    assert main(["plugins", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row.split()[0] for row in rows] == [plugin["name"] for plugin in found]
    (noises,) = (plugin for plugin in found if plugin["name"] == "noises")
    assert noises.pop("seconds") >= 0
    assert "noise:dynamic" in noises.pop("components")
    assert noises == {
        "name": "noises",
        "distribution": "gaekit",
        "version": __version__,
        "module": "gaekit_noises",
        "api": 1,
        "status": "ok",
        "error": None,
        "clashes": [],
    }


def test_every_component_is_listed_with_a_line_of_its_own(capsys: Capture) -> None:
    assert main(["components"]) == 0
    table, _, attributions = capsys.readouterr().out.partition("\n\n")
    rows = [line.split(maxsplit=2) for line in table.splitlines()[1:]]
    classes = load_plugins().classes
    assert [(kind, name) for kind, name, _ in rows] == [(k, n) for k in classes for n in sorted(classes[k])]
    assert all(len(text) > 10 and text.endswith(".") for _, _, text in rows)
    said = [(k, n, cls.attribution) for k in classes for n, cls in sorted(classes[k].items()) if cls.attribution]
    assert attributions.splitlines() == [f"{kind} '{name}': {text}" for kind, name, text in said]
    assert ("dataset", "openmoji") in {(kind, name) for kind, name, _ in said}


def test_a_component_says_whom_to_name(capsys: Capture) -> None:
    assert main(["components", "dataset", "openmoji"]) == 0
    assert "OpenMoji, the open-source emoji and icon project" in capsys.readouterr().out
    assert main(["components", "dataset", "openmoji", "--json"]) == 0
    assert "CC BY-SA 4.0" in json.loads(capsys.readouterr().out)["attribution"]
    assert main(["components", "dataset", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attribution"] is None


def test_one_kind_is_listed_alone(capsys: Capture) -> None:
    assert main(["components", "noise"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert rows
    assert {row.split()[0] for row in rows} == {"noise"}


def test_a_component_shows_its_settings_with_types_bounds_defaults_and_slots(capsys: Capture) -> None:
    assert main(["components", "metric", "frechet"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("metric 'frechet', of plugin metrics (gaekit ")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line}
    assert rows["teacher"].startswith("{use: <teacher>} required ")
    assert rows["grid"].startswith("whole number (> 0) 7 ")
    assert rows["split"].startswith("'train' | 'validation' train ")
    assert main(["components", "noise", "dynamic"]) == 0
    assert "number (" in capsys.readouterr().out
    assert main(["components", "metric", "psnr"]) == 0
    assert capsys.readouterr().out.endswith("No settings: {use: psnr}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["metrc"], "error: there is no kind of component 'metrc' -- did you mean 'metric'?; known: aligner, "),
        (["noise", "dynamc"], "error: there is no noise 'dynamc' -- did you mean 'dynamic'?; known: "),
    ],
)
def test_a_component_that_does_not_exist_is_told(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(["components", *arguments]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_the_schema_is_printed_or_written(elsewhere: Path, capsys: Capture) -> None:
    assert main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["schema", "--out", "schema.json"]) == 0
    assert capsys.readouterr().out == "wrote schema.json\n"
    assert json.loads((elsewhere / "schema.json").read_text()) == printed
    recipe = yaml.safe_load(find_recipe("smoke").read_text().replace("1e-3", "1.0e-3"))
    Draft202012Validator(printed).validate(recipe)


def test_recipes_are_listed_with_their_first_line(capsys: Capture) -> None:
    assert main(["recipes"]) == 0
    recipes, sweeps = capsys.readouterr().out.split("\n\n")
    for table, shipped in ((recipes, list_recipes()), (sweeps, list_sweeps())):
        width = max(len(x.name) for x in shipped)
        assert table.splitlines()[1:] == [f"{r.name:<{width}}  {r.summary}" for r in shipped]


def test_recipes_are_copied_but_never_over_a_file(elsewhere: Path, capsys: Capture) -> None:
    assert main(["recipes", "copy", "smoke"]) == 0
    assert capsys.readouterr().out == "wrote smoke.yaml\n"
    assert main(["check", "smoke.yaml"]) == 0
    assert capsys.readouterr().out.startswith("ok: smoke.yaml: ")
    assert main(["recipes", "copy", "smoke"]) == 2
    assert capsys.readouterr().err == "error: smoke.yaml exists; name another file, or overwrite it with --force\n"
    assert main(["recipes", "copy", "smoke", "--force"]) == 0
    assert main(["recipes", "copy", "smoke", "mine/small.yaml"]) == 0
    assert (elsewhere / "mine" / "small.yaml").exists()


def test_the_version_is_told(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gaekit {__version__}\n"


def test_no_command_shows_help_and_a_wrong_one_is_a_usage_error(capsys: Capture) -> None:
    main([])
    out = capsys.readouterr()
    assert "Train, sample and evaluate" in out.out + out.err
    assert main(["chek"]) == 2
    assert "check" in capsys.readouterr().err
