"""Autoguidance by recipe: a second denoiser that sampling is guided away from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipe_helpers import tiny_recipe
from rich.console import Console

from gaekit.cli import main
from gaekit.errors import ArtifactError, GaekitError
from gaekit.pipeline.pack import pack
from gaekit.pipeline.plan import make_plan
from gaekit.pipeline.run import run_recipe
from gaekit.pipeline.view import View
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.runs.opened import open_run
from gaekit.stages.generate import check_weak
from gaekit.store.models import LoadedDenoiser, Statistics, load_denoiser
from gaekit.train.progress import Reporter

RECIPE = tiny_recipe("""
name: strong
latents: {flip: false}
diffusion: {train: {steps: 6, batch: 16, lr: 1e-2}}
sample:
  sampler: {use: euler, steps: 10}
  count: 12
  batch: 12
runtime: {trackers: [], save_every: 100, threads: 1}
""")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """A strong run without guidance, and a weak one that trained for less."""
    path = tmp_path_factory.mktemp("autoguidance")
    (path / "strong.yaml").write_text(RECIPE)
    run(path, registry)
    run(path, registry, "diffusion.train.steps=1", name="weak", until="diffusion")
    return path


def run(folder: Path, registry: Registry, *overrides: str, name: str = "strong", until: str | None = None) -> View:
    recipe = load_recipe(folder / "strong.yaml", registry, overrides=overrides, name=name)
    return run_recipe(recipe, registry, out=folder / "runs", until=until, reporter=Reporter(Console(quiet=True)))


def guided(folder: Path, weak: str, scale: float, **more: float) -> tuple[str, ...]:
    settings = {"scale": scale, "weak.from": folder / "runs" / weak, **more}
    return tuple(f"sample.guidance.{key}={value}" for key, value in settings.items())


def images(view: View) -> np.ndarray[Any, Any]:
    with np.load(view.path / "samples.npz") as file:
        return np.asarray(file["arr_0"])


def cost(view: View) -> float:
    return float(view.record["stages"]["sample"]["record"]["evaluations_per_image"]["samples"])


def sample_plan(folder: Path, registry: Registry, *overrides: str) -> Any:
    recipe = load_recipe(folder / "strong.yaml", registry, overrides=overrides)
    return make_plan(recipe, registry, folder / "runs/store")["sample"]


def test_scale_1_is_no_guidance_bit_for_bit(folder: Path, registry: Registry) -> None:
    view = run(folder, registry, *guided(folder, "weak", 1), name="scale-1")
    assert view.record["stages"]["sample"]["status"] == "done"
    assert np.array_equal(images(view), images(View(folder / "runs/strong")))
    assert cost(view) == 10


def test_a_denoiser_that_guides_itself_changes_nothing_and_costs_twice(folder: Path, registry: Registry) -> None:
    view = run(folder, registry, *guided(folder, "strong", 3), name="itself")
    assert np.array_equal(images(view), images(View(folder / "runs/strong")))
    assert cost(view) == 20


def test_a_weaker_denoiser_guides_in_its_interval(folder: Path, registry: Registry) -> None:
    view = run(folder, registry, *guided(folder, "weak", 3, start=0.5), name="half")
    assert not np.array_equal(images(view), images(View(folder / "runs/strong")))
    assert cost(view) == 15
    protocol = json.loads((view.path / "sample/samples.json").read_text())["guidance"]
    content = sample_plan(folder, registry, *guided(folder, "weak", 3)).facts["external"]["weak"]
    assert protocol["scale"] == 3
    assert protocol["weak"] == {"from": str(folder / "runs/weak"), "sha256": content}


@pytest.mark.parametrize("weak", [False, True], ids=["null class", "weak denoiser"])
def test_guidance_from_t_03_on_costs_85_evaluations_in_50_steps(folder: Path, registry: Registry, weak: bool) -> None:
    settings = {"sampler.steps": 50, "guidance.scale": 2, "guidance.start": 0.3, "count": 4, "batch": 4}
    by = guided(folder, "weak", 2, start=0.3) if weak else ()
    view = run(folder, registry, *(f"sample.{key}={value}" for key, value in settings.items()), *by, name="cost")
    assert cost(view) == 85


def test_a_run_that_trains_shows_previews_of_its_own_denoiser(folder: Path, registry: Registry) -> None:
    more = ("diffusion.train.lr=3e-3", "runtime.images_every=2", "runtime.trackers=[{use: tensorboard}]")
    view = run(folder, registry, *guided(folder, "weak", 2), *more, name="previews")
    assert view.record["stages"]["diffusion"]["status"] == "done"
    assert list((view.path / "tb/diffusion").glob("events*"))


def test_the_fingerprint_holds_the_content_of_the_weak_denoiser_and_not_its_place(
    folder: Path, registry: Registry
) -> None:
    plan = sample_plan(folder, registry, *guided(folder, "weak", 2))
    shutil.copy(View(folder / "runs/weak").artifact("diffusion"), folder / "runs/moved.safetensors")
    assert sample_plan(folder, registry, *guided(folder, "moved.safetensors", 2)).fingerprint == plan.fingerprint
    others = [sample_plan(folder, registry, *guided(folder, "strong", 2)), sample_plan(folder, registry)]
    assert len({plan.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert "external" not in others[1].facts


def test_an_absent_weak_denoiser_is_planned_as_such_and_refused_by_a_run(
    folder: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = guided(folder, "nowhere", 2)
    assert sample_plan(folder, registry, *overrides).status == "absent"
    changes = [argument for override in overrides for argument in ("--set", override)]
    assert main(["check", str(folder / "strong.yaml"), *changes]) == 0
    assert "sample.guidance.weak.from: there is no" in capsys.readouterr().err
    with pytest.raises(ArtifactError, match="nowhere: no artifact of the stage diffusion"):
        run(folder, registry, *overrides, name="absent")


def test_a_weak_denoiser_that_does_nothing_is_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [argument for override in guided(folder, "weak", 1) for argument in ("--set", override)]
    assert main(["check", str(folder / "strong.yaml"), *changes]) == 0
    assert "sample.guidance.weak: is not used: sample.guidance.scale is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("latent_dim=6", "latent_dim is 6, and it is made for 4"),
        ("image.stride=8", "image.size / image.stride is 2, and it is made for 4"),
        ("diffusion.path=gvp", "diffusion.path is gvp, and it is made for linear"),
    ],
)
def test_a_weak_denoiser_of_other_sizes_is_refused_before_anything_runs(
    folder: Path, registry: Registry, override: str, message: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"sample\.guidance\.weak\.from: .*{message}"):
        run(folder, registry, override, *guided(folder, "weak", 2), name="unfit")
    assert not (folder / "runs/unfit").exists()


@pytest.fixture(scope="module")
def strong(folder: Path, registry: Registry) -> LoadedDenoiser:
    return load_denoiser(View(folder / "runs/strong").artifact("diffusion"), registry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("cat", "dog")}, "number of classes is 2, and 10"),
        ({"path": "vp"}, "path is vp, and linear"),
        ({"betas": "cosine"}, "betas is cosine, and linear"),
        ({"grid": 8}, "grid is 8, and 4"),
    ],
)
def test_denoisers_of_different_things_do_not_guide_each_other(
    strong: LoadedDenoiser, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_weak(replace(strong, spec=replace(strong.spec, **change)), strong, Path("weak"))


def test_class_names_must_agree_unless_they_are_mere_numbers(strong: LoadedDenoiser) -> None:
    letters = replace(strong, spec=replace(strong.spec, classes=tuple("abcdefghij")))
    check_weak(strong, letters, Path("weak"))  # digits are called "0" to "9"
    shuffled = replace(letters, spec=replace(letters.spec, classes=tuple("abcdefghji")))
    with pytest.raises(ArtifactError, match="'j' stands where the guided one has 'i'"):
        check_weak(shuffled, letters, Path("weak"))


def test_latents_of_another_autoencoder_are_told_by_their_statistics(strong: LoadedDenoiser) -> None:
    mean, std = strong.statistics.mean_D, strong.statistics.std_D
    check_weak(replace(strong, statistics=Statistics(mean + 1e-3 * std, std)), strong, Path("weak"))
    for other in (Statistics(mean + 0.1 * std, std), Statistics(mean, 1.1 * std)):
        with pytest.raises(ArtifactError, match="other statistics"):
            check_weak(replace(strong, statistics=other), strong, Path("weak"))


def test_another_predicted_quantity_is_refused(strong: LoadedDenoiser) -> None:
    weak = replace(strong, network=torch.nn.Identity())  # type: ignore[arg-type]
    weak.network.predicts = "data"
    with pytest.raises(ArtifactError, match="predicts is data, and velocity"):
        check_weak(weak, strong, Path("weak"))


def test_an_opened_run_is_guided_as_it_was_and_by_whom_one_asks(
    folder: Path, registry: Registry, tmp_path: Path
) -> None:
    view = run(folder, registry, *guided(folder, "weak", 3), name="opened")
    labels = [3, 4, 5]
    asked = open_run(view.path, registry).sample(labels, 3).tensors
    packed = pack(view, tmp_path / "packed")
    shutil.move(folder / "runs/weak", folder / "runs/elsewhere")
    try:
        assert torch.equal(open_run(packed, registry).sample(labels, 3).tensors, asked)
    finally:
        shutil.move(folder / "runs/elsewhere", folder / "runs/weak")
    plain = open_run(folder / "runs/strong", registry)
    assert torch.equal(plain.sample(labels, 3, guidance=3.0, weak=folder / "runs/weak").tensors, asked)
    assert not torch.equal(plain.sample(labels, 3).tensors, asked)


def test_the_command_takes_a_weak_denoiser(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["sample", str(folder / "runs/strong"), "--count", "2", "--scale", "2"]
    assert main([*asked, "--weak", str(folder / "runs/weak"), "--out", str(tmp_path / "grid.png")]) == 0
    assert (tmp_path / "grid.png").exists()
    assert main([*asked, "--weak", str(folder / "nowhere"), "--out", str(tmp_path / "grid.png")]) == 2
    assert "nowhere: no artifact of the stage diffusion there" in capsys.readouterr().err


def test_a_recipe_without_null_class_may_be_guided_by_a_weak_denoiser_only(folder: Path, registry: Registry) -> None:
    overrides = ("diffusion.label_dropout=0", "sample.guidance.scale=2")
    with pytest.raises(GaekitError, match="null class"):
        load_recipe(folder / "strong.yaml", registry, overrides=overrides)
    load_recipe(folder / "strong.yaml", registry, overrides=(*overrides, *guided(folder, "weak", 2)))
