"""Every registered component keeps the promises of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_helpers import write_parquet, write_shards
from PIL import Image

from gaekit.plugins import Registry, load_plugins
from gaekit.testing import check_component

REGISTRY = load_plugins()
SMALL_VIT = {"depth": 1, "width": 32, "heads": 2}
SMALL_DIT = {"depth": 2, "width": 32, "heads": 2}
SMALL_CONV = {"ch": 32, "ch_mult": (1, 1, 1, 2), "num_res_blocks": 1}
SMALL_DC_AE = {"widths": (12, 12, 24, 24), "depths": (1, 1, 1, 1), "attention": (3,), "head_dim": 8}
SMALL_RAE = {"depth": 1, "width": 32, "heads": 2, "hidden": 48}
RANDOM = {"weights": "random"}
SMALL_RANDOM = {"weights": "random", "size": "small"}


def lite(layer: str) -> Any:
    config: Any = REGISTRY.find("teacher", "efficientnet_lite0").Config
    return config(use="efficientnet_lite0", layer=layer)


def tiny() -> Any:
    config: Any = REGISTRY.find("teacher", "timm").Config
    return config(use="timm", model="test_vit", weights="random")


def tiny_frechet() -> Any:
    config: Any = REGISTRY.find("metric", "frechet").Config
    return config(use="frechet", teacher=tiny(), grid=2)


SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("teacher", "timm"): {"model": "resnet10t", **RANDOM},
    ("teacher", "dinov2"): SMALL_RANDOM,
    ("teacher", "dinov3"): SMALL_RANDOM,
    ("teacher", "siglip"): RANDOM,
    ("teacher", "siglip2"): RANDOM,
    ("teacher", "mae"): {**RANDOM, "size": "base"},
    ("teacher", "clip"): {**RANDOM, "model": "ViT-S-16-alt"},
    ("encoder", "vit"): SMALL_VIT,
    ("decoder", "vit"): SMALL_VIT,
    ("encoder", "conv"): SMALL_CONV,
    ("decoder", "conv"): SMALL_CONV,
    ("encoder", "dc_ae"): SMALL_DC_AE,
    ("decoder", "dc_ae"): SMALL_DC_AE,
    ("encoder", "rae"): SMALL_RAE,
    ("decoder", "rae"): SMALL_RAE,
    ("encoder", "frozen_teacher"): {"teacher": lite("stage3")},
    ("denoiser", "lightning_dit"): SMALL_DIT,
    ("denoiser", "dit"): SMALL_DIT,
    ("denoiser", "sit"): SMALL_DIT,
    ("denoiser", "dit_dh"): {**SMALL_DIT, "decoder_width": 48, "decoder_heads": 2},
    ("perceptual", "teacher"): {"teacher": lite("stage2")},
    ("perceptual", "lpips"): {"net": "squeeze", "backbone": "random"},
    ("metric", "frechet"): {"teacher": lite("stage2"), "grid": 8, "parts": True},
    ("metric", "cmmd"): {"teacher": tiny(), "grid": 2},
    ("metric", "rfrechet"): {"teacher": tiny(), "grid": 2},
    ("metric", "memorisation"): {"teacher": tiny(), "grid": 2},
    ("metric", "panel"): {"distances": (tiny_frechet(),)},
    ("metric", "interpolation"): {"teacher": tiny(), "grid": 2},
    ("metric", "ifid"): {"teacher": tiny(), "grid": 2, "neighbours": 3},
    ("metric", "noise_curve"): {"sigmas": [0, 0.5], "teacher": tiny(), "grid": 2},
    ("metric", "lpips"): {**RANDOM, "net": "squeeze"},
    ("metric", "adm"): RANDOM,
    ("metric", "fid"): RANDOM,
    ("metric", "sfid"): RANDOM,
    ("metric", "kid"): {**RANDOM, "subsets": 2, "subset_size": 8},
    ("metric", "mind"): {**RANDOM, "projections": 50},
    ("metric", "rfid"): RANDOM,
    ("metric", "inception_score"): {**RANDOM, "splits": 2},
    ("metric", "precision"): RANDOM,
    ("metric", "recall"): RANDOM,
}
"""What a component is told: what it requires, and sizes that a test can afford."""

SIZES: dict[tuple[str, str], dict[str, Any]] = {
    ("encoder", "frozen_teacher"): {"channels": 40},
    ("encoder", "rae"): {"channels": 32},
}
"""What is not built at the usual sizes."""

SLOW = {
    ("metric", name) for name in ("adm", "fid", "sfid", "kid", "mind", "inception_score", "precision", "recall", "rfid")
}
"""On Inception, which takes minutes here."""

ELSEWHERE = {("tracker", name) for name in ("wandb", "mlflow", "trackio")}
"""In tests/plugins/test_services.py, where the packages are installed, each in a process of its own."""


def registered() -> Iterator[Any]:
    for kind, classes in REGISTRY.classes.items():
        for name in sorted(name for name in classes if (kind, name) not in ELSEWHERE):
            yield pytest.param(kind, name, marks=pytest.mark.slow if (kind, name) in SLOW else ())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in two classes."""
    root = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        folder = root / ("cat" if index % 2 else "dog")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (24, 20), (20 * index, 255 - 20 * index, 128)).save(folder / f"{index}.png")
    return root


def data_settings(name: str, pictures: Path) -> dict[str, Any]:
    """Where a data set finds images."""
    if name == "image_folder":
        return {"root": str(pictures), "validation": 0.3}
    if name == "webdataset":
        return {"shards": write_shards(pictures.parent / "shards", 40, 20)}
    return {"path": str(write_parquet(pictures.parent / "parquet", 40))} if name == "huggingface" else {}


@pytest.mark.parametrize(("kind", "name"), list(registered()))
@pytest.mark.filterwarnings("default::UserWarning")
def test_a_component_keeps_the_promises_of_its_kind(kind: str, name: str, pictures: Path) -> None:
    settings = dict(SETTINGS.get((kind, name), {}))
    if kind == "dataset":
        settings |= data_settings(name, pictures)
    registry = Registry() if not settings else load_plugins()
    check_component(REGISTRY.find(kind, name), registry=registry, sizes=SIZES.get((kind, name)), **settings)


def test_every_kind_has_a_component() -> None:
    assert [kind for kind, classes in REGISTRY.classes.items() if not classes] == []


def test_the_table_names_components_that_exist() -> None:
    assert [key for key in SETTINGS if key[1] not in REGISTRY.classes[key[0]]] == []
