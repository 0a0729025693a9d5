"""The teacher that comes as a package: the right network, the right weights, the right preprocessing."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gaekit_teachers.efficientnet as efficientnet
from gaekit.errors import GaekitError
from gaekit_teachers.efficientnet import (
    LITE0,
    LITE1,
    LITE2,
    REDUCTIONS,
    EfficientNetLite,
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLiteConfig,
    Release,
    load_classifier,
)

CHINA_PALACE, FLOWER_DAISY = 698, 985
TEACHERS: dict[Release, type[EfficientNetLite]] = {
    LITE0: EfficientNetLite0, LITE1: EfficientNetLite1, LITE2: EfficientNetLite2,
}  # fmt: skip


def teacher(grid: int = 4, layer: efficientnet.Layer = "stage5", release: Release = LITE0) -> EfficientNetLite:
    return TEACHERS[release](EfficientNetLiteConfig(use=release.name, layer=layer), grid=grid)


def photo(name: str) -> torch.Tensor:
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image(name)
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    crop = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return torch.from_numpy(crop).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize(
    ("name", "label", "release"),
    [  # the flower is a dahlia, which ImageNet has not: Lite2 sees a honeycomb in it
        *(("china.jpg", CHINA_PALACE, release) for release in TEACHERS),
        ("flower.jpg", FLOWER_DAISY, LITE0),
        ("flower.jpg", FLOWER_DAISY, LITE1),
    ],
)
def test_the_whole_classifier_recognises_real_photos_by_the_same_preprocessing(
    name: str, label: int, release: Release
) -> None:
    looks = teacher(grid=7, layer="stage7", release=release)
    assert looks.input_size == 224
    with torch.no_grad():
        logits = load_classifier(release)(looks.preprocess(photo(name)))
    best = logits.softmax(-1)[0].topk(2)
    assert best.indices[0] == label
    assert best.values[0] > 1.2 * best.values[1]  # by ImageNet's mean and std it takes the palace for a church


def test_the_features_are_the_input_of_the_classifiers_head() -> None:
    image, model = photo("flower.jpg"), load_classifier(LITE0)
    head = teacher(grid=7, layer="head")
    with torch.no_grad():
        logits = model.classifier(head(image).mean((2, 3)))  # type: ignore[operator]
        torch.testing.assert_close(logits, model(head.preprocess(image)))
        early = teacher(grid=14, layer="stage5")  # 224 px too
        torch.testing.assert_close(model.classifier(early.pooled(image)), logits)  # type: ignore[operator]
    assert early.pooled_dim == head.pooled_dim == 1280


@pytest.mark.parametrize("release", [LITE0, LITE2], ids=lambda release: release.name)
@pytest.mark.parametrize("layer", REDUCTIONS)
def test_each_layer_has_the_documented_channels_on_the_wanted_grid(layer: efficientnet.Layer, release: Release) -> None:
    looks = teacher(grid=2, layer=layer, release=release)
    feature = looks(torch.zeros(1, 3, 32, 32))
    assert feature.shape == (1, release.layers[layer], 2, 2)
    assert looks.feature_dim == release.layers[layer] == type(looks).width(looks.config)
    assert looks.input_size == 2 * REDUCTIONS[layer]


@pytest.mark.parametrize("release", TEACHERS, ids=lambda release: release.name)
def test_channels_reductions_mean_and_std_agree_with_timm(release: Release) -> None:
    import timm

    model: Any = timm.create_model(release.model, pretrained=False)
    ours = {str(layer): (channels, REDUCTIONS[layer]) for layer, channels in release.layers.items()}
    for info in model.feature_info:
        assert ours[f"stage{info['stage']}"] == (info["num_chs"], info["reduction"])
    assert ours["head"] == (model.num_features, 32)
    assert model.pretrained_cfg["mean"] == efficientnet.MEAN
    assert model.pretrained_cfg["std"] == efficientnet.STD


@pytest.mark.parametrize("release", TEACHERS, ids=lambda release: release.name)
def test_a_missing_package_names_the_extra(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, release.package, None)
    with pytest.raises(GaekitError, match=rf"pip install 'gaekit\[{release.extra}\]'"):
        teacher(release=release)


def test_another_file_is_refused_by_its_sha256(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = (files(LITE0.package) / "models" / LITE0.file).read_bytes()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / LITE0.file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(GaekitError, match=rf"sha256 is [0-9a-f]{{64}}, should be {LITE0.sha256}"):
        teacher()


def test_its_identity_needs_neither_the_package_nor_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, LITE0.package, None)
    assert EfficientNetLite0.external(EfficientNetLiteConfig(use="efficientnet_lite0")) == f"sha256:{LITE0.sha256}"


def test_resizing_is_pillows_bicubic_both_ways() -> None:
    from gaekit_teachers.frozen import resize

    image = photo("china.jpg")[..., :96, :96]
    channel = Image.fromarray(image[0, 0].numpy(), mode=None)
    for side in (40, 150):
        pillow = torch.from_numpy(np.array(channel.resize((side, side), Image.Resampling.BICUBIC)))
        torch.testing.assert_close(resize(image, side)[0, 0], pillow, atol=2e-5, rtol=0)


def test_building_leaves_the_runs_generator_alone() -> None:
    before = torch.get_rng_state()
    teacher()
    assert torch.equal(before, torch.get_rng_state())
