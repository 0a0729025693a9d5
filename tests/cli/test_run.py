"""The commands of the README as a person types them, on the smoke recipe: every kind of component, all six stages."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from command_helpers import gaekit
from PIL import Image
from sklearn.datasets import load_sample_images

README = Path(__file__).parents[2] / "README.md"


def test_smoke_runs_all_six_stages_and_then_finds_them_cached(smoke: Path) -> None:
    start = time.monotonic()
    again = gaekit(smoke, "run", "smoke")
    assert again.stderr.count(": cached") == 6
    assert "attention" not in again.stderr
    assert time.monotonic() - start < 30  # 10 on a machine that does nothing else
    metrics = json.loads((smoke / "runs/smoke/metrics.json").read_text())
    assert all(np.isfinite(entry["value"]) and entry["protocol"] for entry in metrics.values())
    assert {name.split("/")[0] for name in metrics} == {"reconstruction", "latents", "samples", "samples_unguided"}


def test_sample_needs_the_run_alone(smoke: Path, tmp_path: Path) -> None:
    gaekit(smoke, "pack", "runs/smoke", str(tmp_path / "packed"))
    gaekit(tmp_path, "sample", "packed", "--class", "3", "--count", "4", "--out", "grid.png")
    gaekit(tmp_path, "sample", "packed", "--class", "3", "--count", "4", "--out", "images.npz")
    gaekit(tmp_path, "sample", "packed", "--count", "3", "--out", "folder", "--seed", "1", "--scale", "1")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (2 * 34 + 2, 2 * 34 + 2)
    with np.load(tmp_path / "images.npz") as images:
        assert images["arr_0"].shape == (4, 32, 32, 3)
        assert images["arr_1"].tolist() == [3] * 4
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    wrong = gaekit(tmp_path, "sample", "packed", "--class", "cat", "--out", "x.png", code=2)
    assert "class 'cat': this run knows 10 classes: 0, 1, 2" in wrong.stderr
    assert "not a run" in gaekit(tmp_path, "sample", "folder", "--out", "x.png", code=2).stderr


def test_reconstruct_keeps_names_and_names_what_it_cannot_read(smoke: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    crops(source, classes=True, count=4)
    (source / "broken.png").write_text("no image")
    done = gaekit(smoke, "reconstruct", "runs/smoke", str(source), "--out", str(tmp_path / "out"))
    assert "4 images" in done.stdout
    assert "broken.png" in done.stderr
    names = sorted(str(p.relative_to(source).with_suffix(".png")) for p in source.rglob("*.jpg"))
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")) == names
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no image" in gaekit(smoke, "reconstruct", "runs/smoke", str(empty), "--out", "y", code=2).stderr


def crops(folder: Path, *, classes: bool, count: int) -> None:
    """`count` crops of scikit-learn's two photos, 48 px and coloured; a folder a photo, or all in one."""
    random = np.random.default_rng(0)
    for index in range(count):
        photo = load_sample_images().images[index % 2]
        top, left = (int(random.integers(0, side - 48)) for side in photo.shape[:2])
        place = folder / ("china", "flower")[index % 2] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[top : top + 48, left : left + 48]).save(place / f"crop {index:03d}.jpg", quality=95)


@pytest.mark.parametrize("classes", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_smoke_on_a_folder_of_200_photographs(tmp_path: Path, classes: bool) -> None:
    crops(tmp_path / "images", classes=classes, count=200)
    options = ["dataset={use: image_folder, root: images, validation: 0.2}"]
    done = gaekit(tmp_path, "run", "smoke", *(part for option in options for part in ("--set", option)))
    metrics = json.loads((tmp_path / "runs/smoke/metrics.json").read_text())
    assert ("samples/class_accuracy" in metrics) == classes
    assert ("left out, since the data has no classes: class_accuracy, linear_probe" in done.stderr) != classes
    with np.load(tmp_path / "runs/smoke/samples.npz") as samples:
        assert samples["arr_0"].std() > 0
        assert ("arr_1" in samples) == classes


def test_a_trial_of_ones_own_images_takes_every_stage_and_leaves_real_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the recipe that the README offers first for own images."""
    crops(tmp_path / "pictures", classes=True, count=60)
    monkeypatch.setenv("IMAGES", "pictures")
    done = gaekit(tmp_path, "run", "my_images_small", "--try")
    line = "try: 2 steps a training, 8 images a step, 24 images a split, networks at full size; in runs/try/"
    assert done.stderr.startswith(f"{line}my_images_small, apart from all other runs\n")
    assert done.stderr.count(": done in") == 6
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"try"}
    record = json.loads((tmp_path / "runs/try/my_images_small/run.json").read_text())
    stages = {name: entry["record"] for name, entry in record["stages"].items()}
    assert [stages[name]["steps"] for name in ("semantic", "autoencoder", "diffusion")] == [2, 2, 2]
    assert stages["latents"]["images"] == 24
    assert stages["sample"]["count"] == 24
    wrong = gaekit(tmp_path, "run", "my_images_small", "--try", "--redo", "sample", code=2)
    assert "--try begins from nothing each time; leave --redo out" in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["openmoji", "quickstart", "smoke"])
def test_a_trial_of_shipped_recipes(recipe: str, tmp_path: Path) -> None:
    for _ in range(2):  # each from nothing
        assert gaekit(tmp_path, "run", recipe, "--try").stderr.count(": done in") == 6
    assert len(list((tmp_path / "runs/try/store/diffusion").iterdir())) == 1


def test_the_readmes_commands_run(smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it stands there, but on the smoke recipe, and without the trainings of hours."""
    shutil.copytree(smoke / "runs", tmp_path / "runs", symlinks=True)
    shutil.copytree(tmp_path / "runs/smoke", tmp_path / "runs/other", symlinks=True)
    crops(tmp_path / "my_folder", classes=False, count=3)
    crops(tmp_path / "pictures", classes=True, count=200)
    lines = [
        line.strip().split(" #")[0]
        for line in README.read_text().splitlines()
        if re.match(r" {4}(\w+=\S+ )?gaekit ", line)
    ]
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line.replace("quickstart", "smoke"))
        while "=" in words[0]:
            monkeypatch.setenv(*words.pop(0).split("=", 1))
        if words[1] == "run" and "my_images" in words[2]:
            words = ["gaekit", "plan", *(word for word in words[2:] if word != "--try")]
        gaekit(tmp_path, *words[1:])
    assert (tmp_path / "threes.png").exists()
    assert len(list((tmp_path / "rebuilt").iterdir())) == 3


def test_the_readmes_recipe_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (tmp_path / "readme.yaml").write_text(block)
    assert "ok" in gaekit(tmp_path, "check", "readme.yaml").stdout


def test_a_recipe_that_is_wrong_ends_with_2_and_says_all(tmp_path: Path) -> None:
    gaekit(tmp_path, "recipes", "copy", "smoke")
    text = (tmp_path / "smoke.yaml").read_text()
    (tmp_path / "smoke.yaml").write_text(text.replace("steps: 8", "setps: 8").replace("use: euler", "use: eular"))
    wrong = gaekit(tmp_path, "run", "smoke.yaml", code=2)
    assert wrong.stderr.count("did you mean") == 3
    assert not (tmp_path / "runs").exists()


def test_an_absent_folder_of_images_is_named(tmp_path: Path) -> None:
    wrong = gaekit(tmp_path, "run", "smoke", "--set", "dataset={use: image_folder, root: nowhere}", code=2)
    assert "nowhere" in wrong.stderr
