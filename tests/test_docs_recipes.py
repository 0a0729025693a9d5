"""What docs/recipes.md and docs/plugins.md show is so."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from plugin_helpers import install_text
from pydantic import BaseModel

from gaekit.api import KINDS
from gaekit.cli import main
from gaekit.cli.describe import Setting, settings
from gaekit.plugins import load_plugins, summary
from gaekit.recipe.fit import members
from gaekit.recipe.schema import From, Recipe, Train
from gaekit.testing import check_component

DOCS = Path(__file__).parents[1] / "docs"
RECIPES, PLUGINS = DOCS / "recipes.md", DOCS / "plugins.md"


def blocks(path: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [text for name, text in found if name == language]


def whole(name: str, path: Path) -> tuple[str, str]:
    """What stands between the marks `name`, and the text of the file."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"(<!-- {name}: .*? -->\n)(.*?)(<!-- /{name} -->)", text, flags=re.S)
    assert found is not None
    return found[2], text


def check_written(name: str, path: Path, wanted: str) -> None:
    """The part between the marks is what the code says; UPDATE_DOCS=1 writes it."""
    written, text = whole(name, path)
    if os.environ.get("UPDATE_DOCS") and written != wanted:
        path.write_text(text.replace(written + f"<!-- /{name}", wanted + f"<!-- /{name}"), encoding="utf-8")
        written = wanted
    assert written == wanted, f"run UPDATE_DOCS=1 pytest {Path(__file__).name}"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(rows: list[Setting]) -> str:
    lines = [f"| `{s.key}` | {cell(s.type)} | {cell(s.default)} | {cell(s.about)} |\n" for s in rows]
    return "".join(["| key | value | default | |\n", "|---|---|---|---|\n", *lines])


def keys() -> str:
    shared, sections = [], []
    for name, info in Recipe.model_fields.items():
        models = [m for m in members(info.annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
        models = [m for m in models if m is not From and m.__module__ == Recipe.__module__]
        if models:
            rows = [s for s in settings(models[0]) if not s.key.startswith("train.")]
            sections.append(f"\n`{name}:` {info.description}\n\n{table(rows)}")
        else:
            shared.append(name)
    head = "\n" + table([s for s in settings(Recipe) if s.key in shared])
    train = f"\n`train:` in `semantic`, `autoencoder` and `diffusion`: how it is trained\n\n{table(settings(Train))}"
    return head + "".join(sections) + train + "\n"


def test_every_key_is_documented() -> None:
    check_written("keys", RECIPES, keys())


def test_every_kind_is_documented() -> None:
    rows = [f"| `{kind}` | `{cls.__name__}` | {cell(summary(cls))} |\n" for kind, cls in KINDS.items()]
    check_written("kinds", PLUGINS, "".join(["\n| kind | class | what it is |\n|---|---|---|\n", *rows, "\n"]))


def test_the_recipe_shown_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(blocks(RECIPES, "yaml")[0])
    assert main(["check", str(path)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("number", range(4))
def test_the_changes_shown_are_right(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["recipes", "copy", "my_images"])
    command = [line for block in blocks(RECIPES, "") for line in block.splitlines() if line.startswith("gaekit run")]
    arguments = re.findall(r"'[^']*'|\S+", command[number])[2:]
    assert len(command) == 4
    assert main(["check", *(a.strip("'") for a in arguments)]) == 0, capsys.readouterr().err


def test_the_errors_shown_are_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = (block for block in blocks(RECIPES, "") if "bad.yaml" in block)
    text = "# A recipe with four mistakes.\n" + "".join(
        line.split(" #")[0].rstrip() + "\n" for line in blocks(RECIPES, "yaml")[0].splitlines() if line
    )
    for right, wrong in (
        ("name: digits", "nam: digits"),
        ("stride: 8", "stride: 7"),
        ("use: dynamic", "use: dynamc"),
        ("train: {steps: 300, batch: 64, lr: 1e-3}", "train: {steps: 300, batch: 64, lr: fast}"),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "bad.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "recipes/bad.yaml"]) == 2
    assert capsys.readouterr().err == shown


def test_the_plugin_shown_works_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *_, test = blocks(PLUGINS, "python")
    assert len([line for line in module.splitlines() if line]) <= 20
    monkeypatch.syspath_prepend(install_text(tmp_path, "gaekit_laplace", module, blocks(PLUGINS, "toml")[0]))
    monkeypatch.delitem(sys.modules, "gaekit_laplace", raising=False)
    found = next(p for p in load_plugins().plugins if p.name == "laplace")
    assert (str(found), found.components) == ("laplace (gaekit-laplace 0.1.0)", ["noise:laplace"])
    for line in blocks(PLUGINS, "")[0].splitlines()[1:]:
        command, *arguments = (a.strip("'") for a in re.findall(r"'[^']*'|\S+", line)[1:])
        assert main(["check" if command == "run" else command, *arguments]) == 0, line
    names: dict[str, object] = {}
    exec(test, names)
    names["test_laplace_keeps_its_promises"]()  # type: ignore[operator]
    check_component(load_plugins().find("noise", "laplace"))
    assert main(["check", "quickstart", "--set", "autoencoder.noise={use: laplace, scael: 0.2}"]) == 2
    assert "autoencoder.noise.scael: unknown key -- did you mean 'scale'?" in capsys.readouterr().err
