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
from gaekit_teachers.efficientnet import LAYERS, EfficientNetLite0, EfficientNetLite0Config, load_classifier

CHINA_PALACE, FLOWER_DAISY = 698, 985


def teacher(grid: int = 4, layer: efficientnet.Layer = "stage5") -> EfficientNetLite0:
    return EfficientNetLite0(EfficientNetLite0Config(use="efficientnet_lite0", layer=layer), grid=grid)


def photo(name: str) -> torch.Tensor:
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image(name)
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    crop = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return torch.from_numpy(crop).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize(("name", "label"), [("china.jpg", CHINA_PALACE), ("flower.jpg", FLOWER_DAISY)])
def test_the_whole_classifier_recognises_real_photos_by_the_same_preprocessing(name: str, label: int) -> None:
    looks = teacher(grid=7, layer="stage7")
    assert looks.input_size == 224
    with torch.no_grad():
        logits = load_classifier()(looks.preprocess(photo(name)))
    best = logits.softmax(-1)[0].topk(2)
    assert best.indices[0] == label
    assert best.values[0] > 1.2 * best.values[1]  # by ImageNet's mean and std it takes the palace for a church


def test_the_features_are_the_input_of_the_classifiers_head() -> None:
    image, model = photo("flower.jpg"), load_classifier()
    head = teacher(grid=7, layer="head")
    with torch.no_grad():
        logits = model.classifier(head(image).mean((2, 3)))  # type: ignore[operator]
        torch.testing.assert_close(logits, model(head.preprocess(image)))


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_has_the_documented_channels_on_the_wanted_grid(layer: efficientnet.Layer) -> None:
    looks = teacher(grid=2, layer=layer)
    feature = looks(torch.zeros(1, 3, 32, 32))
    assert feature.shape == (1, LAYERS[layer][0], 2, 2)
    assert looks.feature_dim == LAYERS[layer][0]
    assert looks.input_size == 2 * LAYERS[layer][1]


def test_channels_reductions_mean_and_std_agree_with_timm() -> None:
    import timm

    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    ours: dict[str, tuple[int, int]] = {str(layer): sizes for layer, sizes in LAYERS.items()}
    for info in model.feature_info:
        assert ours[f"stage{info['stage']}"] == (info["num_chs"], info["reduction"])
    assert model.pretrained_cfg["mean"] == efficientnet.MEAN
    assert model.pretrained_cfg["std"] == efficientnet.STD


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, efficientnet.PACKAGE, None)
    with pytest.raises(GaekitError, match=r"pip install 'gaekit\[quickstart\]'"):
        teacher()


def test_another_file_is_refused_by_its_sha256(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = (files(efficientnet.PACKAGE) / "models" / efficientnet.FILE).read_bytes()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / efficientnet.FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(GaekitError, match=rf"sha256 is [0-9a-f]{{64}}, should be {efficientnet.SHA256}"):
        teacher()


def test_its_identity_needs_neither_the_package_nor_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, efficientnet.PACKAGE, None)
    assert (
        EfficientNetLite0.external(EfficientNetLite0Config(use="efficientnet_lite0")) == f"sha256:{efficientnet.SHA256}"
    )


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
