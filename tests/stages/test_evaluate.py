"""What several series of samples are compared with is taken in once for all of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import Tiny, to_float
from rich.console import Console
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn import functional

from gaekit.api import GaekitError, Teacher
from gaekit.api.metrics import Features
from gaekit.data.images import to_uint8
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Plugin, Registry, load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.runs.opened import open_run
from gaekit.stages import evaluate
from gaekit.store.models import load_autoencoder
from gaekit.train.progress import Reporter
from gaekit_metrics.fid import Fid

SMALL = {"use": "vit", "depth": 1, "width": 16, "heads": 2}
REAL, SAMPLES = 7, 5
LOOKED_AT: list[int] = []
"""Of each call of the network, how many images: a copy of a metric copies its network too."""


class Noted(Tiny):
    """Notes down what it looks at."""

    def __call__(self, pixel_B3RR: Tensor) -> Features:
        LOOKED_AT.append(len(pixel_B3RR))
        return super().__call__(pixel_B3RR)


class NotedFid(Fid):
    """FID by a small network."""

    name = "noted_fid"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Noted(), **sizes)


class Coarse(Teacher):
    """The image itself, coarsely; notes down what it looks at."""

    name = "coarse"
    feature_dim = 3

    @classmethod
    def external(cls, config: Any) -> None:
        return None

    def forward(self, image_B3RR: Tensor) -> Tensor:
        if type(image_B3RR) is Tensor:  # and none that is only traced, to count FLOP
            LOOKED_AT.append(int((image_B3RR != -1).flatten(1).any(1).sum()))  # without those that fill up a block
        return functional.adaptive_avg_pool2d(image_B3RR, self.grid).square()


PART_NAMES = ("_reconstructed", "_from_reconstructions")
PARTS = {"use": "frechet", "teacher": {"use": "coarse"}, "grid": 2, "parts": True}


def registry_of_test() -> Registry:
    """With the metric and the teacher of these tests."""
    registry = load_plugins()
    for component in (NotedFid, Coarse):
        registry.add(component, Plugin("test", "gaekit", "0", "test"))
    return registry


def recipe(reference: Path | None, scale: float = 2.0) -> dict[str, Any]:
    own = {} if reference is None else {"reference": str(reference)}
    return {
        "recipe": 1,
        "name": "tiny",
        "image": {"size": 16, "stride": 4},
        "latent_dim": 4,
        "dataset": {"use": "digits"},
        "autoencoder": {"encoder": SMALL, "decoder": SMALL, "regularizer": {"use": "rms_norm"},
                        "noise": {"use": "constant"}, "train": {"steps": 1, "batch": 4}},
        "latents": {},
        "diffusion": {"denoiser": {**SMALL, "use": "sit", "patch": 1}, "times": {"use": "uniform"},
                      "train": {"steps": 1, "batch": 4}},
        "sample": {"sampler": {"use": "euler", "steps": 1}, "guidance": {"scale": scale}, "also_unguided": True,
                   "count": SAMPLES, "batch": SAMPLES},
        "evaluate": {"metrics": [{"use": "noted_fid", "weights": "random", **own}]},
        "runtime": {"trackers": [], "threads": 1},
    }  # fmt: skip


def test_a_reference_of_a_file_is_looked_at_once_for_two_series(tmp_path: Path) -> None:
    pixels = torch.randint(256, (REAL, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=pixels.permute(0, 2, 3, 1).numpy())
    registry = registry_of_test()
    LOOKED_AT.clear()
    found = load_recipe_data(recipe(tmp_path / "reference.npz"), registry)
    view = run_recipe(found, registry, out=tmp_path / "runs", reporter=Reporter(Console(quiet=True)))
    assert sorted(LOOKED_AT) == [SAMPLES, SAMPLES, REAL]
    numbers = json.loads((view.path / "metrics.json").read_text())
    assert sorted(numbers) == ["samples/fid", "samples_unguided/fid"]
    assert {entry["protocol"]["reference"]["n"] for entry in numbers.values()} == {REAL}
    for series in ("samples", "samples_unguided"):
        alone = NotedFid(NotedFid.Config(use="noted_fid", weights="random", reference=str(tmp_path / "reference.npz")),
                         image_size=16, classes=())  # fmt: skip
        alone.ready(torch.device("cpu"))
        with np.load(view.path / f"{series}.npz") as images:
            pixels = torch.from_numpy(images["arr_0"]).permute(0, 3, 1, 2)
            alone.update(alone.extract(to_float(pixels)), torch.zeros(SAMPLES))
        assert numbers[f"{series}/fid"]["value"] == pytest.approx(alone.compute()["fid"], rel=1e-6)


def test_samples_before_the_reference_is_read_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "reference.npz", arr_0=np.zeros((2, 16, 16, 3), np.uint8))
    config = NotedFid.Config(use="noted_fid", weights="random", reference=str(tmp_path / "reference.npz"))
    made = NotedFid(config, image_size=16, classes=())
    with pytest.raises(TypeError, match="'noted_fid': `ready` comes before `update`"):
        made.update(torch.zeros(2, 3, 16, 16), torch.zeros(2))


def test_a_second_evaluation_of_the_same_data_reads_no_real_image(tmp_path: Path) -> None:
    registry = registry_of_test()
    seen, values = [], []
    for scale in (2.0, 3.0):
        LOOKED_AT.clear()
        found = load_recipe_data(recipe(None, scale), registry)
        view = run_recipe(found, registry, out=tmp_path / "runs", reporter=Reporter(Console(quiet=True)))
        seen.append(sum(LOOKED_AT))
        values.append(json.loads((view.path / "metrics.json").read_text()))
    real = values[0]["samples/fid"]["protocol"]["reference"]["n"]
    assert real > 1000
    assert seen == [real + 2 * SAMPLES, 2 * SAMPLES]
    assert values[1]["samples/fid"]["protocol"]["reference"] == values[0]["samples/fid"]["protocol"]["reference"]
    assert values[1]["samples_unguided/fid"]["value"] == values[0]["samples_unguided/fid"]["value"]
    (room,) = (tmp_path / "runs" / "store" / "references").iterdir()
    assert (
        f"store/references/{room.name}"
        in json.loads((view.path / "run.json").read_text())["stages"]["evaluate"]["caches"]
    )


def coarse(pixels_NRR3: np.ndarray) -> np.ndarray:
    """What `Coarse` says of images, averaged over positions."""
    image = torch.from_numpy(pixels_NRR3).permute(0, 3, 1, 2).float() / 127.5 - 1
    return functional.adaptive_avg_pool2d(image, 2).square().double().mean((2, 3)).numpy()


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    ca, cb = np.cov(a.T), np.cov(b.T)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


def test_parts_of_a_distance_are_those_of_the_runs_reconstructions_and_images_are_read_once(tmp_path: Path) -> None:
    registry = registry_of_test()
    wanted = recipe(None) | {"evaluate": {"metrics": [PARTS]}}
    seen, rooms = [], []
    for changes in ({}, {"seed": 1}, {"sample": wanted["sample"] | {"guidance": {"scale": 3.0}}, "seed": 1}):
        LOOKED_AT.clear()
        found = load_recipe_data(wanted | changes, registry)
        view = run_recipe(found, registry, out=tmp_path / "runs", reporter=Reporter(Console(quiet=True)))
        seen.append(sum(LOOKED_AT))
        rooms.append(len(list((tmp_path / "runs" / "store" / "references").iterdir())))
    numbers = json.loads((view.path / "metrics.json").read_text())
    images = numbers["samples/frechet_coarse"]["protocol"]["n_reference"]
    assert images > 1000
    assert seen == [2 * images + 2 * SAMPLES, images + 2 * SAMPLES, 2 * SAMPLES]  # another autoencoder, then none
    assert rooms == [2, 3, 3]
    batches = list(open_run(view.path, registry).data.images("train").in_order(100))
    model = load_autoencoder(view.artifact("autoencoder"), registry)
    with torch.no_grad():
        rebuilt = torch.cat([to_uint8(model.reconstruct(batch.image_B3RR)) for batch in batches])
    real = torch.cat([batch.pixels_BRR3 for batch in batches])
    of_real, of_rebuilt = coarse(real.numpy()), coarse(rebuilt.numpy())
    for series in ("samples", "samples_unguided"):
        with np.load(view.path / f"{series}.npz") as file:
            made = coarse(file["arr_0"])
        name = f"{series}/frechet_coarse"
        expected = {
            name: by_scipy(of_real, made),
            f"{name}_reconstructed": by_scipy(of_real, of_rebuilt),
            f"{name}_from_reconstructions": by_scipy(of_rebuilt, made),
        }
        assert {key: numbers[key]["value"] for key in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)
        low, high = numbers[f"{name}_reconstructed"]["interval"]
        assert low < expected[f"{name}_reconstructed"] < high
    assert len({round(numbers[f"{name}{part}"]["value"], 5) for part in ("", *PART_NAMES)}) == 3


def test_parts_without_an_autoencoder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of_test()
    monkeypatch.setattr(evaluate, "Reconstructor", lambda *_: None)
    found = load_recipe_data(recipe(None) | {"evaluate": {"metrics": [PARTS]}}, registry)
    with pytest.raises(GaekitError, match="metric 'frechet' compares with reconstructions, and there is no autoenc"):
        run_recipe(found, registry, out=tmp_path / "runs", reporter=Reporter(Console(quiet=True)))


def test_two_ranks_look_at_each_image_once_in_all_and_find_the_numbers_of_one(tmp_path: Path) -> None:
    program = Path(__file__).with_name("evaluate_program.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([sys.executable, str(program), str(tmp_path / "one"), "sample"], check=True, timeout=300)
    shutil.copytree(tmp_path / "one", tmp_path / "two", symlinks=True)  # one training, and its samples, for both
    for name, command in (("one", [sys.executable]), ("two", launcher)):
        subprocess.run([*command, str(program), str(tmp_path / name)], check=True, timeout=300, capture_output=True)
    one, two = (json.loads((tmp_path / name / "tiny" / "metrics.json").read_text()) for name in ("one", "two"))
    assert one.keys() == two.keys() >= {
        "reconstruction/psnr", "latents/linear_probe_flat", "samples/class_accuracy",
        "samples/frechet_coarse_reconstructed", "samples/memorisation_coarse_mean", "samples/cmmd_coarse_mean",
        "samples/panel", "samples/panel_frechet_coarse",
        "latents/noise_curve_frechet_coarse@0.5", "latents/spectrum_slope", "latents/ifid_coarse",
    }  # fmt: skip
    for name, entry in one.items():
        assert two[name]["value"] == pytest.approx(entry["value"], rel=1e-10, abs=1e-10), name
        assert two[name]["protocol"] == entry["protocol"]
    counts = {
        name: [int(file.read_text()) for file in sorted((tmp_path / name).glob("seen-*"))] for name in ("one", "two")
    }
    assert sum(counts["two"]) == sum(counts["one"])
    assert min(counts["two"]) > 0.4 * sum(counts["two"])
