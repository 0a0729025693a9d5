"""`gaekit evaluate` on photographs: against features and formulas computed here, however images come and are cut."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import gaekit
from PIL import Image
from rich.console import Console
from scipy.linalg import sqrtm
from sklearn.datasets import load_sample_images

from gaekit.api import Teacher
from gaekit.data.crop import center_crop
from gaekit.errors import DataError, GaekitError
from gaekit.plugins import build, load_plugins
from gaekit.recipe.load import load_component
from gaekit.runs.evaluate import Asked, evaluate_images
from gaekit.runs.evaluate.judge import _compared
from gaekit.runs.evaluate.sets import component_of, open_reference
from gaekit.train.progress import Reporter

REGISTRY = load_plugins()
TEACHER = {"use": "efficientnet_lite0", "layer": "stage1"}
FRECHET = "{use: frechet, grid: 8, teacher: {use: efficientnet_lite0, layer: stage1}}"
NAME = "generation/frechet_efficientnet_lite0"
COUNT = 40


def crops(seed: int, count: int = COUNT, side: int = 16) -> np.ndarray:
    random, photos = np.random.default_rng(seed), load_sample_images().images
    cut = []
    for index in range(count):
        photo = photos[index % 2]
        top, left = (int(random.integers(0, edge - side)) for edge in photo.shape[:2])
        cut.append(photo[top : top + side, left : left + side])
    return np.stack(cut)


def write(folder: Path, pixels: np.ndarray, names: list[str] | None = None) -> Path:
    for index, image in enumerate(pixels):
        file = folder / (names[index] if names else f"{index:03d}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """made, real: folders of 40 photographs' crops each."""
    root = tmp_path_factory.mktemp("images")
    write(root / "made", crops(0))
    write(root / "real", crops(1))
    return root


def judged(images: Path | str, *metrics: str, **options: Any) -> dict[str, dict[str, Any]]:
    asked = Asked(str(images), metrics, device="cpu", **options)
    return evaluate_images(asked, REGISTRY, Reporter(Console(quiet=True)))


def features(pixels: np.ndarray) -> np.ndarray:
    config = load_component("teacher", TEACHER, REGISTRY, source="test")
    teacher = build(Teacher, config, REGISTRY, grid=8).eval()
    with torch.no_grad():
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        return teacher(image).double().mean((2, 3)).numpy()


def test_a_distance_is_that_of_the_teachers_features_by_scipy(folder: Path) -> None:
    found = judged(folder / "made", FRECHET, against=str(folder / "real"))[NAME]
    made, real = features(crops(0)), features(crops(1))
    covariances = np.cov(made.T), np.cov(real.T)
    trace = np.trace(covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    assert found["value"] == pytest.approx(((made.mean(0) - real.mean(0)) ** 2).sum() + trace, rel=1e-5)
    assert found["interval"][0] < found["value"] < found["interval"][1]
    protocol = found["protocol"]
    assert (protocol["images"]["n"], protocol["against"]["n"], protocol["image_size"]) == (COUNT, COUNT, 16)
    assert protocol["images"]["sha256"] != protocol["against"]["sha256"]


def test_neither_batch_nor_order_nor_the_kind_of_file_moves_a_number(folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    against, pixels = str(folder / "real"), crops(0)
    value = judged(folder / "made", FRECHET, against=against)[NAME]["value"]
    shuffled = write(tmp_path / "shuffled", pixels[np.random.default_rng(5).permutation(COUNT)])
    np.savez(tmp_path / "plain.npz", arr_0=pixels)
    np.savez_compressed(tmp_path / "small.npz", arr_0=pixels, arr_1=np.arange(COUNT))
    cells = [{"bytes": (folder / "made" / f"{i:03d}.png").read_bytes(), "path": None} for i in range(COUNT)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "table.parquet", row_group_size=16)
    ways = [
        (folder / "made", 1), (folder / "made", 7), (shuffled, 64), (tmp_path / "plain.npz", 13),
        (tmp_path / "small.npz", 64), (tmp_path / "table.parquet", 64),
    ]  # fmt: skip
    for images, batch in ways:
        other = judged(images, FRECHET, against=against, batch=batch)[NAME]["value"]
        assert other == pytest.approx(value, rel=1e-10), (images, batch)


@pytest.mark.slow
def test_two_processes_tell_the_same(folder: Path) -> None:
    command = [sys.executable, "-m", "gaekit", "evaluate", "made", "--against", "real", "-m", FRECHET, "--batch", "7"]
    one, two = (
        json.loads(subprocess.run([*command, "--json", *more], cwd=folder, capture_output=True, check=True).stdout)
        for more in ([], ["--nproc", "2"])
    )
    assert two[NAME]["value"] == pytest.approx(one[NAME]["value"], rel=1e-10)
    assert two[NAME]["interval"] == pytest.approx(one[NAME]["interval"], rel=1e-10)


def test_reconstructions_are_matched_with_their_originals_by_name(tmp_path: Path) -> None:
    real, noise = crops(1, 4), np.random.default_rng(0).integers(-9, 10, (4, 16, 16, 3))
    made = np.clip(real.astype(int) + noise, 0, 255).astype(np.uint8)
    originals = write(tmp_path / "real", real, ["a/x.png", "a/y.bmp", "b.png", "b.bmp"])
    rebuilt = write(
        tmp_path / "made", made, ["a/x.png", "a/y.png", "b.png.png", "b.bmp.png"]
    )  # as `gaekit reconstruct`
    found = judged(rebuilt, "psnr", "ssim", originals=originals)
    errors = [((r.astype(int) - m.astype(int)) ** 2).mean() for r, m in zip(real, made, strict=True)]
    expected = np.mean([10 * math.log10(255**2 / error) for error in errors])
    assert set(found) == {"reconstruction/psnr", "reconstruction/ssim"}
    assert found["reconstruction/psnr"]["value"] == pytest.approx(expected, rel=1e-12)
    (rebuilt / "b.png.png").rename(rebuilt / "c.png")
    with pytest.raises(DataError, match=r"nothing that is the original of c\.png"):
        judged(rebuilt, "psnr", originals=originals)
    (rebuilt / "c.png").unlink()
    with pytest.raises(DataError, match=r"no reconstruction of b\.png of"):
        judged(rebuilt, "psnr", originals=originals)


@pytest.mark.parametrize(
    ("metrics", "options", "told"),
    [
        (["psnr"], {"against": "real"}, "psnr: judges reconstructions.*by --originals"),
        (["psnr"], {}, "psnr: judges reconstructions.*by --originals"),
        ([FRECHET], {"originals": Path("real")}, "frechet: judges samples.*by --against"),
        ([FRECHET], {}, "frechet: judges samples.*by --against"),
        (["linear_probe"], {"against": "real"}, "linear_probe: judges a tokenizer's latents.*report-card"),
        ([FRECHET], {"against": "real", "originals": Path("real")}, "give one of the two"),
        (["class_accuracy"], {"against": "real"}, "class_accuracy: needs classes"),
        (["class_accuracy"], {"against": "{use: digits}"}, "class_accuracy: needs the class of each image"),
        ([FRECHET.replace("grid: 8", "parts: true")], {"against": "real"}, "no autoencoder to make them"),
        (["{use: fid, reference: real}"], {"against": "real"}, "a reference of its own.*give one of the two"),
        (
            ["{use: memorisation, grid: 1, teacher: {use: efficientnet_lite0}}"],
            {"against": "real"},
            "memorisation: compares with training and with held-out images",
        ),
        ([], {"against": "real"}, "say which numbers are wanted by --metric"),
        (["fud"], {"against": "real"}, "unknown metric 'fud'"),
        (["[fid]"], {"against": "real"}, "is no metric; give its name"),
    ],
)
def test_a_metric_of_the_wrong_kind_is_told_what_it_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, metrics: list[str], options: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(GaekitError, match=told):
        judged("made", *metrics, allow_few=True, **options)


def test_too_few_images_are_refused_with_the_number_that_is_needed(folder: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few", crops(0, 16))
    with pytest.raises(GaekitError, match=r"needs at least 17 images on either side, and .*few has 16"):
        judged(few, FRECHET, against=str(folder / "real"))
    with pytest.raises(GaekitError, match=r"needs at least 17 .*--against .*few has 16"):
        judged(folder / "made", FRECHET, against=str(few))
    assert "singular" in judged(few, FRECHET, against=str(few), allow_few=True)[NAME]["protocol"]["warning"]


def test_images_of_unlike_size_are_refused_or_cropped_as_in_training(folder: Path, tmp_path: Path) -> None:
    mixed = write(tmp_path / "mixed", crops(0))
    Image.fromarray(crops(3, 1, 40)[0, :24]).save(mixed / "037.png")
    with pytest.raises(DataError, match=r"037\.png: is 40 x 24, and 000\.png 16 x 16; nothing is resized unless"):
        judged(mixed, FRECHET, against=str(folder / "real"))
    with pytest.raises(DataError, match="nothing is resized"):
        judged(folder / "made", FRECHET, against=str(mixed))
    cropped = tmp_path / "cropped"
    shutil.copytree(mixed, cropped)
    with Image.open(mixed / "037.png") as image:
        Image.fromarray(center_crop(image, 16)).save(cropped / "037.png")
    found = judged(mixed, FRECHET, against=str(folder / "real"), size=16)[NAME]
    assert found["value"] == judged(cropped, FRECHET, against=str(folder / "real"))[NAME]["value"]
    assert found["protocol"]["sizing"] == "centre crop, resized as in training"
    wide = write(tmp_path / "wide", crops(0)[:, :8])
    with pytest.raises(DataError, match=r"000\.png: is 16 x 8, no square; --size R"):
        judged(wide, FRECHET, against=str(folder / "real"))


def test_statistics_go_to_the_metrics_that_read_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "reference.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    given = open_reference(str(tmp_path / "reference.npz"), REGISTRY)
    assert _compared(component_of("metric", "fid", REGISTRY, "-m"), given).reference == str(given.statistics)
    made = write(tmp_path / "made", crops(0))
    with pytest.raises(
        GaekitError, match=r"frechet: needs real images, and .* statistics of a network's features alone"
    ):
        judged(made, FRECHET, against=str(tmp_path / "reference.npz"))


def test_a_data_set_and_a_runs_samples_are_judged_too(tmp_path: Path) -> None:
    """The digits' own training images, as a run's samples: each is of its class, and no nearer could they be."""
    digits = build_digits()
    store = tmp_path / "run" / "store"
    store.mkdir(parents=True)
    np.savez(store / "samples.npz", arr_0=digits[0], arr_1=digits[1])
    entry = {"status": "done", "identity": "x", "artifact": "store/samples.npz", "room": None, "subfolder": ""}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"name": "run", "stages": {"sample": entry}}))
    done = gaekit(
        tmp_path, "evaluate", "run", "--against", "{use: digits}", "--size", "8", "-m", "class_accuracy", "--json",
        "--out", "found.json",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "found.json").read_text())
    assert found["generation/class_accuracy"]["value"] > 0.98
    assert found["generation/class_accuracy"]["protocol"]["against"]["kind"] == "data set"
    table = gaekit(tmp_path, "evaluate", "run", "--against", "{use: digits}", "--size", "8", "-m", "class_accuracy")
    assert table.stdout.splitlines()[1].split()[0] == "generation/class_accuracy"


def build_digits() -> tuple[np.ndarray, np.ndarray]:
    from gaekit.api import Dataset

    source = build(Dataset, load_component("dataset", {"use": "digits"}, REGISTRY, source="test"), REGISTRY).train()
    rows = [source[index] for index in range(0, len(source), 8)]
    return np.stack([center_crop(image, 8) for image, _ in rows]), np.array([label for _, label in rows])
