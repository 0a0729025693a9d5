"""The recipes that come with gaekit are found by name from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaekit.cli import main
from gaekit.errors import GaekitError
from gaekit.plugins import load_plugins
from gaekit.recipe import copy_recipe, find_recipe, find_sweep, list_recipes, list_sweeps
from gaekit.sweeps.definition import read_sweep

FOLDER = Path(__file__).parents[2] / "recipes"


def test_every_file_of_the_recipes_folder_is_listed_with_its_first_comment() -> None:
    files = {p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.yaml")}
    found = {recipe.name: recipe for recipe in list_recipes()}
    sweeps = {f"{sweep.name}.sweep": sweep for sweep in list_sweeps()}
    assert set(found) | set(sweeps) == files
    assert {"quickstart", "ablations/kl"} <= set(found)
    assert "claims/aligners.sweep" in sweeps
    found |= sweeps
    for recipe in found.values():
        first = recipe.path.read_text(encoding="utf-8").splitlines()[0]
        assert recipe.summary
        assert first == f"# {recipe.summary}"


def test_a_bare_name_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "ablations/kl"):
        assert find_recipe(name).read_text() == (FOLDER / f"{name}.yaml").read_text()


def test_a_file_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("mine: 1")
    assert find_recipe("quickstart.yaml") == Path("quickstart.yaml")
    assert find_recipe(tmp_path / "quickstart.yaml") == tmp_path / "quickstart.yaml"


def test_a_sweep_is_found_by_its_name_or_its_path(tmp_path: Path) -> None:
    assert find_sweep("claims/aligners") == FOLDER / "claims" / "aligners.sweep.yaml"
    (tmp_path / "mine.yaml").write_text("")
    assert find_sweep(tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    with pytest.raises(GaekitError, match=r"no sweep claims/aligner -- did you mean 'claims/aligners'"):
        find_sweep("claims/aligner")


def test_what_is_not_there_is_told_with_what_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GaekitError, match="no shipped recipe is called 'quikstart' -- did you mean 'quickstart'"):
        find_recipe("quikstart")
    (tmp_path / "mine.yaml").write_text("")
    with pytest.raises(GaekitError, match=r"there is no recipe mnie\.yaml -- did you mean 'mine\.yaml'"):
        find_recipe("mnie.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(GaekitError, match=r"folder\.yaml is a folder"):
        find_recipe("folder.yaml")
    with pytest.raises(GaekitError, match="'claims/aligners' is a sweep, not a recipe; `gaekit sweep claims/aligners`"):
        find_recipe("claims/aligners")
    with pytest.raises(GaekitError, match="'claims' is a recipe, not a sweep; `gaekit run claims --sweep"):
        find_sweep("claims")


def test_a_copy_is_the_file_and_overwrites_only_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    original = (FOLDER / "smoke.yaml").read_bytes()
    assert copy_recipe("smoke") == Path("smoke.yaml")
    assert (tmp_path / "smoke.yaml").read_bytes() == original
    with pytest.raises(GaekitError, match=r"smoke\.yaml exists; name another file, or overwrite it with --force"):
        copy_recipe("smoke")
    (tmp_path / "smoke.yaml").write_text("changed")
    copy_recipe("smoke", force=True)
    assert (tmp_path / "smoke.yaml").read_bytes() == original
    assert copy_recipe("smoke", tmp_path / "new" / "other.yaml").read_bytes() == original
    assert copy_recipe("ablations/kl") == Path("kl.yaml")
    with pytest.raises(GaekitError, match="no shipped recipe or sweep is called 'smok' -- did you mean 'smoke'"):
        copy_recipe("smok")


@pytest.mark.parametrize("name", [sweep.name for sweep in list_sweeps()])
def test_a_copy_of_a_sweep_is_the_same_sweep_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = copy_recipe(name, tmp_path)
    assert copy.name == f"{Path(name).name}.sweep.yaml"
    registry = load_plugins()
    copied, shipped = read_sweep(copy, registry), read_sweep(Path(name), registry)
    assert (copied.file, copied.recipe) == (shipped.file, shipped.recipe)
    names = [recipe.name for recipe in list_recipes()]
    assert shipped.recipe in names  # by its name, which a copy finds too
    assert name not in names  # `gaekit recipes copy NAME` means one of the two


def test_copying_a_sweep_says_how_to_change_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "copy", "claims/aligners"]) == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert "wrote aligners.sweep.yaml" in told
    assert "`gaekit recipes copy claims` beside it, and write `recipe: claims.yaml`" in told
    assert main(["recipes", "copy", "claims"]) == 0
    assert "its recipe" not in capsys.readouterr().out
    sweep = tmp_path / "aligners.sweep.yaml"
    sweep.write_text(sweep.read_text().replace("recipe: claims\n", "recipe: claims.yaml\n"))
    assert read_sweep(Path("aligners.sweep.yaml"), load_plugins()).recipe == "claims.yaml"
