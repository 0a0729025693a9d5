"""Image towers of open_clip as teachers, on tiny ones with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit_teachers.clip import Clip, ClipConfig

open_clip: Any = pytest.importorskip("open_clip")

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "patch_size": None},
    "tiny-timm": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from open_clip import factory

    folder = tmp_path_factory.mktemp("clip")
    for name, vision in TOWERS.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT}))
    open_clip.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in TOWERS:
        factory._MODEL_CONFIGS.pop(name)


def teacher(model: str = "tiny-vit", grid: int = 3, **settings: Any) -> Clip:
    settings.setdefault("weights", "random")
    return Clip(ClipConfig.model_validate({"use": "clip", "model": model, **settings}), grid=grid)


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_feature_is_the_patch_tokens_after_the_final_norm() -> None:
    looks = teacher()
    torch.manual_seed(0)
    tower = open_clip.create_model("tiny-vit", load_weights=False, force_image_size=24).visual.eval()
    tower.output_tokens = True
    with torch.no_grad():
        tokens = tower(looks.preprocess(images()))[1]
    torch.testing.assert_close(looks(images()).flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-timm"])
def test_the_pooled_embedding_is_clips_own_of_an_image(model: str) -> None:
    looks = teacher(model, grid=2)
    torch.manual_seed(0)
    whole = open_clip.create_model(model, load_weights=False, force_image_size=looks.input_size).eval()
    with torch.no_grad():
        torch.testing.assert_close(looks.pooled(images()), whole.encode_image(looks.preprocess(images())))
    assert looks.pooled_dim == 32


def test_inner_layers_and_resnets_have_no_pooled_embedding() -> None:
    for looks in (teacher(layer=0), teacher("tiny-resnet", grid=1)):
        with pytest.raises(GaekitError, match="teacher 'clip' has no pooled embedding"):
            looks.pooled(images())


@pytest.mark.parametrize(
    ("model", "layer", "channels", "side"),
    [
        ("tiny-vit", -1, 64, 24),
        ("tiny-vit", 0, 64, 24),
        ("tiny-resnet", -1, 512, 96),
        ("tiny-resnet", 2, 128, 24),
        ("tiny-timm", -1, 64, 48),
    ],
)
def test_every_kind_of_tower_gives_its_grid(model: str, layer: int, channels: int, side: int) -> None:
    looks = teacher(model, layer=layer)
    assert (looks.feature_dim, looks.input_size) == (channels, side)
    assert looks(images()).shape == (2, channels, 3, 3)


def test_pixels_are_standardised_as_clip_was_trained() -> None:
    white = teacher().preprocess(torch.ones(1, 3, 8, 8)).mean((0, 2, 3))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(white, (1 - mean) / std)


def test_it_is_frozen_and_keeps_no_text_tower() -> None:
    looks = teacher()
    looks.train()
    assert not any(m.training for m in looks.modules())
    assert not any(p.requires_grad for p in looks.parameters())
    assert not any("token_embedding" in name for name in looks.state_dict())


def test_weights_come_from_a_file_of_a_whole_clip(tmp_path: Path) -> None:
    torch.manual_seed(5)
    whole = open_clip.create_model("tiny-vit", load_weights=False).eval()
    path = tmp_path / "clip.pt"
    torch.save(whole.state_dict(), path)
    looks = teacher(grid=4, weights=str(path))
    whole.visual.output_tokens = True
    with torch.no_grad():
        tokens = whole.visual(looks.preprocess(images()))[1]
    torch.testing.assert_close(looks(images()).flatten(2).transpose(1, 2), tokens)
    assert Clip.external(looks.config).startswith("sha256:")
    with pytest.raises(GaekitError, match=r"clip\.pt of open_clip's tiny-timm cannot be loaded"):
        teacher("tiny-timm", weights=str(path))
    with pytest.raises(GaekitError, match=r"no file nowhere\.pt"):
        teacher(weights="nowhere.pt")


def test_published_weights_are_named_by_where_they_are_and_mistakes_are_answered() -> None:
    assert Clip.external(ClipConfig(use="clip")) == "hub:timm/vit_base_patch16_clip_224.openai/"
    assert (
        Clip.external(ClipConfig(use="clip", tag="laion2b_s34b_b88k")) == "hub:laion/CLIP-ViT-B-16-laion2B-s34B-b88K/"
    )
    with pytest.raises(GaekitError, match=r"no weights tagged 'opnai'; tags: openai, laion400m_e31"):
        Clip.external(ClipConfig(use="clip", tag="opnai"))
    with pytest.raises(GaekitError, match=r"no model 'ViT-B16'; did you mean ViT-B-16"):
        teacher("ViT-B16")
    with pytest.raises(GaekitError, match=r"layer 3 of tiny-vit; it has 3 layers: 0 to 2"):
        teacher(layer=3)


def test_without_the_hub_the_message_says_which_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GaekitError, match=r"weights 'openai' of open_clip's RN50: .* is not in .*forbids downloads"):
        teacher("RN50", weights="hub")
