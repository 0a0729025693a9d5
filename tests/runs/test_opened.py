"""An opened run: its files without torch, its networks as the stages used them, and the same numbers every time."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_helpers import TINY
from safetensors.torch import load_file

import gaekit
from gaekit.cli import main
from gaekit.data.crop import to_uint8
from gaekit.errors import ArtifactError, DataError, GaekitError, RecipeError
from gaekit.runs.coding import arc
from gaekit.runs.opened import OpenRun

LOOKS = """
import sys, gaekit
run = gaekit.open(sys.argv[1])
print(run, list(run.stages), sorted(run.metrics), run.settings["latent_dim"])
print([name for name in ("torch", "pluggy", "timm", "numpy", "PIL") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> OpenRun:
    return gaekit.open(tiny_run)


def test_a_look_at_a_run_imports_neither_torch_nor_plugins(tiny_run: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOOKS, str(tiny_run)], capture_output=True, text=True, check=True)
    told, imported = done.stdout.splitlines()
    stages = ["semantic", "autoencoder", "latents", "diffusion", "sample", "evaluate"]
    assert told == f"<run {tiny_run}: done> {stages} ['reconstruction/psnr'] 4"
    assert imported == "[]"


def test_its_files_are_told_as_they_are(run: OpenRun, tiny_run: Path) -> None:
    assert run.record == json.loads((tiny_run / "run.json").read_text())
    entry = run.metrics["reconstruction/psnr"]
    assert entry["value"] == run.stages["evaluate"].record["reconstruction/psnr"]
    assert entry["protocol"]["n"] > 0
    assert {stage.state for stage in run.stages.values()} == {"done"}
    assert run.stages["diffusion"].record["steps"] == 6
    assert run.stages["diffusion"].seconds == run.record["stages"]["diffusion"]["record"]["seconds"]
    assert run.stages["latents"].seconds is None
    assert run.recipe.diffusion is not None
    assert run.settings["sample"]["guidance"]["scale"] == run.recipe.sample.guidance.scale == 1.5  # type: ignore[union-attr]


def test_no_folder_of_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a run"):
        gaekit.open(tmp_path)


def test_damaged_metrics_are_named(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_run / "run.json", tmp_path)
    for entry in ("3", '{"value": "x"}', '{"value": null}', '{"value": true}', '{"value": NaN}', '{"value": 1e999}',
                  f'{{"value": 1{"0" * 400}}}', '{"value": 1, "protocol": 5}'):  # fmt: skip
        (tmp_path / "metrics.json").write_text(f'{{"fid": {entry}}}')
        with pytest.raises(ArtifactError, match=r"metrics\.json: damaged"):
            _ = gaekit.open(tmp_path).metrics
    deep = f'{{"fid": {{"value": 1, "protocol": {{"a": {"[" * 400 + "]" * 400}}}}}}}'
    (tmp_path / "metrics.json").write_text(deep)
    with pytest.raises(ArtifactError, match=r"metrics\.json: .*more than 100 deep"):
        _ = gaekit.open(tmp_path).metrics


def test_the_stage_of_samples_is_repeated_by_its_seed_name_and_chunks(run: OpenRun, tiny_run: Path) -> None:
    """Not the same images as samples.npz, which are another series, but by the same path from noise to pixels."""
    from gaekit.stages.generate import ImageGenerator

    assert run.recipe.sample is not None
    made = run.sample(["3", 7], 8)
    section = run.recipe.sample
    generator = ImageGenerator(
        run.machine, run.registry, section, 0, run.autoencoder, run.denoiser, section.guidance, compiled=False
    )
    chunks = [generator.images("asked", range(6), [3, 7] * 3), generator.images("asked", range(6, 8), [3, 7])]
    assert torch.equal(made.pixels, to_uint8(torch.cat(chunks)))


def test_samples_have_labels_names_and_pixels(run: OpenRun) -> None:
    made = run.sample(["3", 7], 5)
    assert made.labels == (3, 7, 3, 7, 3)
    assert made.names == ("3", "7", "3", "7", "3")
    assert made.tensors.shape == (5, 3, 16, 16)
    assert made.tensors.dtype == torch.uint8
    assert len(made) == len(list(made)) == 5
    assert np.array_equal(np.asarray(made[4]), made.tensors[4].permute(1, 2, 0))
    assert torch.equal(made[1:3].tensors, made.tensors[1:3])
    assert made[1:3].labels == (7, 3)
    assert run.sample(count=12).labels[:11] == (*range(10), 0)
    assert run.sample("7", 2).labels == run.sample(7, 2).labels == (7, 7)


def test_what_is_asked_otherwise_changes_the_images_and_what_is_not_does_not(run: OpenRun) -> None:
    plain = run.sample(3, 2).tensors
    for asked in ({"steps": 4}, {"guidance": 1.5}, {"seed": 0}, {"interval": (0.25, 1.0)}):
        assert torch.equal(run.sample(3, 2, **asked).tensors, plain)  # type: ignore[arg-type]
    for other in ({"steps": 3}, {"guidance": 9.0}, {"seed": 1}, {"interval": (0.75, 1.0)}):
        assert not torch.equal(run.sample(3, 2, **other).tensors, plain), other  # type: ignore[arg-type]


def test_the_interval_and_the_scale_decide_how_often_the_null_class_is_asked(run: OpenRun) -> None:
    calls: list[int] = []
    hook = run.denoiser.network.register_forward_hook(lambda module, inputs, out: calls.append(len(inputs[0])))
    try:
        for asked, expected in (({"guidance": 1.0}, 4), ({"interval": (0.0, 1.0)}, 8), ({"interval": (0.5, 1.0)}, 6)):
            calls.clear()
            run.sample(3, 1, **asked)  # type: ignore[arg-type]
            assert sum(calls) == expected
    finally:
        hook.remove()


def test_steps_are_told_over_all_chunks_and_change_nothing(run: OpenRun) -> None:
    told: list[tuple[int, int]] = []
    made = run.sample(3, 8, on_step=lambda done, total: told.append((done, total)))
    assert told == [(done, 8) for done in range(1, 9)]
    assert torch.equal(made.tensors, run.sample(3, 8).tensors)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"classes": ["cat"]}, "class 'cat': this run knows 10 classes: 0, 1"),
        ({"classes": 10}, "class '10'"),
        ({"classes": []}, "an empty list"),
        ({"count": 0}, "count: 0"),
        ({"steps": 0}, r"run\.sample: sampler\.steps: expected at least 1"),
        ({"guidance": -1.0}, r"run\.sample: guidance\.scale"),
        ({"interval": (0.5, 0.5)}, r"run\.sample: sample\.guidance\.start: the interval starts at 0\.5"),
        ({"interval": (0.0, 2.0)}, r"run\.sample: guidance\.end"),
        ({"weak": "nowhere", "guidance": 2.0}, "nowhere: no artifact of the stage diffusion"),
    ],
)
def test_what_cannot_be_sampled_is_told(run: OpenRun, asked: dict[str, object], message: str) -> None:
    with pytest.raises(GaekitError, match=message):
        run.sample(**asked)  # type: ignore[arg-type]


def test_the_command_makes_the_same_images(run: OpenRun, tiny_run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "images.npz")
    assert (
        main(["sample", str(tiny_run), "--class", "3", "--count", "7", "--scale", "2", "--seed", "5", "--out", out])
        == 0
    )
    with np.load(out) as file:
        assert np.array_equal(file["arr_0"], run.sample("3", 7, guidance=2.0, seed=5).pixels)
        assert file["arr_1"].tolist() == [3] * 7


def test_latents_are_those_of_the_cache(run: OpenRun, tiny_run: Path) -> None:
    images = run.data.images("train")
    pixels = images.batch(range(20), [False] * 20).pixels_BRR3
    shard = next(iter(sorted((tiny_run / "latents/latents").glob("*.safetensors"))))
    assert torch.allclose(run.encode(pixels), load_file(shard)["latents"][:20], atol=1e-5)


def test_decoding_latents_is_reconstructing(run: OpenRun, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    latents = run.encode([image, tmp_path / "image.png"])
    assert latents.shape == (2, 4, 4, 4)
    assert torch.equal(latents[0], latents[1])
    assert torch.equal(run.decode(latents).tensors, run.reconstruct([image] * 2).tensors)
    noisy = run.decode(latents[0] + 0.5 * torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(noisy.tensors[0], run.decode(latents).tensors[0])
    with pytest.raises(GaekitError, match=r"latents of shape \(4, 4\): this run's are \(4, 4, 4\)"):
        run.decode(latents[0, 0])
    with pytest.raises(DataError, match="no picture"):
        run.encode([])


def test_an_interpolation_goes_from_one_end_to_the_other(run: OpenRun) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    ends = run.encode(noise)
    for along in ("arc", "line"):
        way = run.interpolate(noise[0], ends[1], 5, along=along)  # type: ignore[arg-type]
        assert len(way) == 5
        assert torch.equal(way.tensors[[0, 4]], run.reconstruct(noise).tensors)
    middle = run.decode(ends.mean(dim=0))
    assert torch.equal(run.interpolate(*ends, 3, along="line").tensors[1], middle.tensors[0])
    with pytest.raises(GaekitError, match="2 are the fewest"):
        run.interpolate(*noise, 1)
    with pytest.raises(DataError, match="not 2"):
        run.interpolate(noise, noise)


def test_an_arc_keeps_lengths_and_turns_evenly() -> None:
    """Against the definition in the plane: a quarter circle, its radius growing from 1 to 3."""
    a, b = torch.tensor([1.0, 0.0]).view(2, 1, 1), torch.tensor([0.0, 3.0]).view(2, 1, 1)
    for share in (0.0, 0.25, 0.5, 1.0):
        angle, radius = share * math.pi / 2, 1 + 2 * share
        expected = torch.tensor([radius * math.cos(angle), radius * math.sin(angle)])
        assert torch.allclose(arc(a, b, share).flatten(), expected, atol=1e-6)
    for end in (2 * a, -a, 0 * a):
        assert torch.allclose(arc(a, end, 0.5), (a + end) / 2, atol=1e-6)


def test_a_recipe_is_run_from_python_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {**TINY, "name": "here"}
    run = gaekit.run(data, set={"autoencoder.train.steps": 1, "runtime.trackers": ()}, until="autoencoder")
    assert run.state == "done"
    assert run.stages["autoencoder"].record["steps"] == 1
    assert run.record["command"] == ["gaekit", "run", "runs/here/recipe.yaml", "--until", "autoencoder"]
    assert main(run.record["command"][1:]) == 0
    assert run.stages["autoencoder"].state == "cached"
    with pytest.raises(ArtifactError, match="'diffusion' is not complete"):
        _ = run.denoiser
    with pytest.raises(GaekitError, match="no section 'sample'"):
        run.sample()


def test_everything_wrong_with_a_recipe_is_told_under_the_key_that_set_it() -> None:
    with pytest.raises(RecipeError) as found:
        gaekit.run("smoke", set={"latent_dmi": 3, "diffusion.train.steps": "many", "dataset.use": {1, 2}, "a b": 1})
    text = str(found.value)
    for line in (
        "set latent_dmi: latent_dmi: unknown key",
        "set diffusion.train.steps: diffusion.train.steps: ",
        "set dataset.use: dataset.use: is no plain data",
        "set a b: 'a b' is no key",
    ):
        assert line in text
    with pytest.raises(RecipeError, match="recipe: is no plain data"):
        gaekit.run({"recipe": 1, "name": print})


def test_curves_are_what_was_logged(run: OpenRun, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.loads(line) for line in (tiny_run / "diffusion/curves.jsonl").read_text().splitlines()]
    name = next(name for name in lines[0]["scalars"] if name.startswith("loss/"))
    frames = run.curves
    assert list(frames) == ["autoencoder", "diffusion"]
    frame = frames["diffusion"]
    assert list(frame.index) == [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert list(frame[name]) == [line["scalars"][name] for line in lines]
    assert list(frame["seconds"]) == [line["seconds"] for line in lines]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run.curves["diffusion"][name] == list(frame[name])
    assert run.curves["diffusion"]["step"] == [1, 2, 3, 4, 5, 6]


def test_a_step_that_logged_no_such_scalar_has_nan() -> None:
    from gaekit.runs.frames import columns_of
    from gaekit.store.curves import Curves

    columns = columns_of(Curves({"loss/a": [(1, 0.5), (2, 0.25)], "probe/b": [(2, 3.0)]}, [(1, 1.0), (2, 2.0)]))
    assert list(columns) == ["step", "seconds", "loss/a", "probe/b"]
    assert math.isnan(columns["probe/b"][0])
    assert columns["probe/b"][1] == 3.0
