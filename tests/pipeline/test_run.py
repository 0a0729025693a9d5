"""A whole recipe: six stages, then six cached; a changed setting runs just what depends on it; a view that a person
reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from recipe_helpers import tiny_recipe
from rich.console import Console

from gaekit.errors import ArtifactError, GaekitError
from gaekit.pipeline.pack import pack
from gaekit.pipeline.plan import make_plan
from gaekit.pipeline.rooms import collect, stored_rooms
from gaekit.pipeline.run import run_recipe
from gaekit.pipeline.view import View
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.train.progress import Reporter

TINY = tiny_recipe("""
autoencoder: {train: {steps: 3, lr: 1e-3}}
diffusion: {train: {ema: 0.9}}
sample:
  sampler: {use: euler, steps: 2}
  guidance: {scale: 2.0}
  count: 25
  batch: 10
  also_unguided: true
evaluate: {metrics: [{use: psnr}, {use: class_accuracy}, {use: linear_probe, limit: 300}]}
runtime: {save_every: 2, log_every: 1}
""")

ALL = ["semantic", "autoencoder", "latents", "diffusion", "sample", "evaluate"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("project")
    (path / "tiny.yaml").write_text(TINY)
    return path


def run(
    folder: Path, registry: Registry, *overrides: str, name: str | None = None, **options: str
) -> tuple[View, dict[str, str]]:
    recipe = load_recipe(folder / "tiny.yaml", registry, overrides=overrides, name=name)
    view = run_recipe(recipe, registry, out=folder / "runs", reporter=Reporter(Console(quiet=True)), **options)  # type: ignore[arg-type]
    return view, {stage: entry["status"] for stage, entry in view.record["stages"].items()}


@pytest.fixture(scope="module")
def done(folder: Path, registry: Registry) -> View:
    view, status = run(folder, registry)
    assert status == dict.fromkeys(ALL, "done")
    return view


def test_the_view_holds_what_a_person_wants(done: View) -> None:
    with np.load(done.path / "samples.npz") as samples:
        assert samples["arr_0"].shape == (25, 16, 16, 3)
        assert samples["arr_0"].dtype == np.uint8
        assert sorted(np.bincount(samples["arr_1"], minlength=10)) == [2, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    metrics = json.loads((done.path / "metrics.json").read_text())
    assert {
        "reconstruction/psnr",
        "samples/class_accuracy",
        "samples_unguided/class_accuracy",
        "latents/linear_probe_flat",
    } <= set(metrics)
    assert metrics["samples/class_accuracy"]["protocol"]["sampling"]["guidance"]["scale"] == 2.0
    assert metrics["samples_unguided/class_accuracy"]["protocol"]["sampling"]["guidance"]["scale"] == 1.0
    for name, entry in metrics.items():
        low, high = entry["interval"]
        assert low <= entry["value"] <= high, name
        assert entry["protocol"]["interval"].startswith("95 %, "), name
    with np.load(done.path / "per_image.npz") as per_image:
        assert {"reconstruction/psnr", "latents/linear_probe_flat"} <= set(per_image.files)
        for name in per_image.files:
            assert per_image[name].shape == (metrics[name]["protocol"]["n"],)
            assert per_image[name].mean() == pytest.approx(metrics[name]["value"])
    assert (done.path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert list((done.path / "tb" / "diffusion").glob("events.out.tfevents.*"))
    assert not (done.path / "samples.npz").readlink().is_absolute()


def test_again_all_is_cached(done: View, folder: Path, registry: Registry) -> None:
    before = (done.path / "metrics.json").read_bytes()
    _, status = run(folder, registry)
    assert status == dict.fromkeys(ALL, "cached")
    assert (done.path / "metrics.json").read_bytes() == before
    assert not (done.path / "history").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sample.guidance.scale=1.5", ["sample", "evaluate"]),
        ("diffusion.denoiser.depth=2", ["diffusion", "sample", "evaluate"]),
        ("evaluate.metrics=[{use: psnr}]", ["evaluate"]),
        ("latents.dtype=bf16", ["latents", "diffusion", "sample", "evaluate"]),
        ("runtime.log_every=2", []),
    ],
)
def test_a_changed_setting_runs_what_depends_on_it(
    done: View, folder: Path, registry: Registry, override: str, expected: list[str]
) -> None:
    name = "changed-" + override.split("=")[0].replace(".", "-")
    _, status = run(folder, registry, override, name=name)
    assert [stage for stage in ALL if status[stage] == "done"] == expected


def test_more_steps_under_a_constant_schedule_go_on_and_equal_one_training(
    done: View, folder: Path, registry: Registry, tmp_path: Path
) -> None:
    plan = make_plan(
        load_recipe(folder / "tiny.yaml", registry, overrides=["diffusion.train.steps=7"]),
        registry,
        folder / "runs/store",
    )
    assert [stage.status for stage in plan.stages] == ["cached", "cached", "cached", "resume", "run", "run"]
    longer, _ = run(folder, registry, "diffusion.train.steps=7", name="longer")
    (tmp_path / "tiny.yaml").write_text(TINY)
    afresh, _ = run(tmp_path, registry, "diffusion.train.steps=7")
    for file in ("denoiser.safetensors",):
        assert longer.artifact("diffusion").name == file
        assert longer.artifact("diffusion").read_bytes() == afresh.artifact("diffusion").read_bytes()
    assert (longer.path / "samples.npz").read_bytes() == (afresh.path / "samples.npz").read_bytes()


def test_stages_taken_from_another_run_are_that_runs(
    done: View, folder: Path, registry: Registry, tmp_path: Path
) -> None:
    data = TINY.split("autoencoder:")[0] + f"autoencoder: {{from: {done.path}}}\nlatents: {{flip: true}}\n"
    (tmp_path / "tiny.yaml").write_text(data)
    view, status = run(tmp_path, registry)
    assert status == {"autoencoder": "from", "latents": "done"}
    theirs, ours = done.artifact("latents"), view.artifact("latents")
    assert (ours / "00000.safetensors").read_bytes() == (theirs / "00000.safetensors").read_bytes()


def test_an_earlier_view_moves_to_history(folder: Path, registry: Registry) -> None:
    view, _ = run(folder, registry, name="moving")
    run(folder, registry, "evaluate.metrics=[{use: psnr}]", name="moving")
    old = view.path / "history" / "0001"
    assert "reconstruction/psnr" in json.loads((view.path / "metrics.json").read_text())
    assert "samples/class_accuracy" in json.loads((old / "metrics.json").read_text())
    assert "samples/class_accuracy" not in json.loads((view.path / "metrics.json").read_text())


def test_until_and_redo(done: View, folder: Path, registry: Registry) -> None:
    _, status = run(folder, registry, name="half", until="latents")
    assert list(status) == ["semantic", "autoencoder", "latents"]
    _, status = run(folder, registry, redo="sample")
    assert [stage for stage in ALL if status[stage] == "done"] == ["sample", "evaluate"]
    with pytest.raises(GaekitError, match="--until latent: this recipe has no such stage"):
        run(folder, registry, until="latent")


def test_the_store_lists_rooms_and_removes_those_without_a_run(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    out = tmp_path / "runs"
    run(tmp_path, registry, until="latents")
    run(tmp_path, registry, "latents.dtype=bf16", name="other", until="latents")
    both = ("other", "tiny")
    users = {("semantic", both), ("autoencoder", both), ("latents", ("tiny",)), ("latents", ("other",))}
    assert {(room.stage, room.used_by) for room in stored_rooms(out)} == users
    shutil.rmtree(out / "other")
    assert [room.stage for room in collect(out, dry=True)] == ["latents"]
    assert len(stored_rooms(out)) == 4
    collect(out)
    assert len(stored_rooms(out)) == 3
    _, status = run(tmp_path, registry, until="latents")
    assert set(status.values()) == {"cached"}


def test_a_packed_run_stands_alone(done: View, folder: Path, registry: Registry, tmp_path: Path) -> None:
    from gaekit.runs.opened import open_run

    packed = pack(done, tmp_path / "packed")
    assert not [path for path in packed.rglob("*") if path.is_symlink()]
    original, copy = (open_run(path, registry, Reporter(Console(quiet=True))) for path in (done.path, packed))
    assert (original.sample([3, 4], 2).tensors == copy.sample([3, 4], 2).tensors).all()


def test_absent_data_can_be_planned_but_not_run(tmp_path: Path, registry: Registry) -> None:
    text = TINY.replace("use: digits", "use: image_folder\n  root: nowhere\n  validation: 0.1")
    (tmp_path / "tiny.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "tiny.yaml", registry)
    plan = make_plan(recipe, registry, tmp_path / "store")
    assert plan.data is None
    assert "nowhere" in plan.data_note
    with pytest.raises(GaekitError, match="nowhere"):
        run_recipe(recipe, registry, out=tmp_path / "runs", reporter=Reporter(Console(quiet=True)))


def test_what_a_training_starts_from_is_looked_at_first_and_known_by_its_content(
    done: View, folder: Path, registry: Registry, tmp_path: Path
) -> None:
    start = f"diffusion.train.init={done.path}"
    changed = load_recipe(folder / "tiny.yaml", registry, overrides=[start])
    moved = shutil.copy(done.artifact("diffusion"), tmp_path / "elsewhere.safetensors")
    elsewhere = load_recipe(folder / "tiny.yaml", registry, overrides=[f"diffusion.train.init={moved}"])
    fresh = load_recipe(folder / "tiny.yaml", registry)
    prints = [
        make_plan(recipe, registry, folder / "runs/store")["diffusion"].fingerprint
        for recipe in (changed, elsewhere, fresh)
    ]
    assert prints[0] == prints[1] != prints[2]
    wrong = load_recipe(
        folder / "tiny.yaml", registry, overrides=[f"diffusion.train.init={done.artifact('autoencoder')}"]
    )
    with pytest.raises(ArtifactError, match=r"diffusion\.train\.init: .*holds a autoencoder, wanted: denoiser"):
        run_recipe(wrong, registry, out=tmp_path / "runs")
    assert not list((tmp_path / "runs/store").glob("*/*/DONE"))
