"""Any timm model as a teacher: right features, frozen, honest about its weights."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fake_cuda import fake_mode
from safetensors.torch import save_file

from gaekit.errors import GaekitError
from gaekit_teachers.presets import DinoV2, DinoV2Config, DinoV3, Mae, Siglip, Siglip2
from gaekit_teachers.timm_models import FromTimm, Tap, Timm, TimmConfig


def teacher(model: str = "test_vit", grid: int = 4, **settings: object) -> Timm:
    settings.setdefault("weights", "random")
    return Timm(TimmConfig.model_validate({"use": "timm", "model": model, **settings}), grid=grid)


def create(name: str, **settings: Any) -> Any:
    return timm.create_model(name, **settings)


def images(side: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("model", ["test_vit", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_a_transformers_feature_is_its_normalised_patch_tokens(model: str) -> None:
    looks = teacher(model, grid=3)
    torch.manual_seed(0)
    reference = create(model, pretrained=False, num_classes=0).eval()
    reference.set_input_size(img_size=(looks.input_size, looks.input_size))
    with torch.no_grad():
        tokens = reference.forward_features(looks.preprocess(images()))[:, reference.num_prefix_tokens :]
    torch.testing.assert_close(looks(images()).flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("model", ["vit_small_patch14_reg4_dinov2", "test_vit", "test_resnet", "test_efficientnet"])
def test_the_pooled_embedding_is_what_the_model_without_its_classifier_gives(model: str) -> None:
    looks = teacher(model, grid=3)
    torch.manual_seed(0)
    reference = create(model, pretrained=False, num_classes=0, **({"img_size": 42} if "dinov2" in model else {})).eval()
    if hasattr(reference, "set_input_size"):
        reference.set_input_size(img_size=(looks.input_size, looks.input_size))
    own = looks.network.get_submodule("model").state_dict()
    assert not reference.load_state_dict(own, strict=False).missing_keys
    with torch.no_grad():
        torch.testing.assert_close(looks.pooled(images()), reference(looks.preprocess(images())))
    assert looks.pooled(images(80)).shape == (2, looks.pooled_dim)


def test_siglips_is_that_of_its_attention_pool_and_inner_layers_have_none() -> None:
    model = create("vit_base_patch16_siglip_256", depth=1, num_classes=0, pretrained=False, img_size=32).eval()
    tap, pixels = Tap(model, 0, norm=True, whole=True), images()
    with torch.no_grad():
        torch.testing.assert_close(tap.pooled(pixels), model.attn_pool(model.forward_features(pixels)))
    for settings in ({"layer": 0}, {"norm": False}):
        inner = teacher("test_vit", **settings)
        assert inner.pooled_dim is None
        with pytest.raises(GaekitError, match="teacher 'timm' has no pooled embedding"):
            inner.pooled(images())


def test_the_mean_of_a_convnexts_last_stage_is_that_of_its_features_before_the_heads_norm() -> None:
    looks = teacher("test_convnext", grid=2)
    model: Any = looks.network.get_submodule("model")
    with torch.no_grad():
        expected = model.forward_features(looks.preprocess(images())).mean((2, 3))
    torch.testing.assert_close(looks(images()).mean((2, 3)), expected)


@pytest.mark.parametrize(("layer", "index"), [(1, 1), (-1, 4), (-3, 2)])
def test_a_convolutional_networks_feature_is_the_stage_asked_for(layer: int, index: int) -> None:
    looks = teacher("test_resnet", layer=layer)
    reference = create("test_resnet", pretrained=False, features_only=True, out_indices=(index,)).eval()
    assert not reference.load_state_dict(looks.network.get_submodule("model").state_dict(), strict=False).missing_keys
    with torch.no_grad():
        (expected,) = reference(looks.preprocess(images()))
    torch.testing.assert_close(looks(images()), expected)


@pytest.mark.parametrize("model", ["test_vit", "test_vit3", "test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("grid", [2, 5])
def test_features_come_on_the_wanted_grid(model: str, grid: int) -> None:
    looks = teacher(model, grid=grid)
    assert looks(images()).shape == (2, looks.feature_dim, grid, grid)
    assert looks(images(80)).shape == (2, looks.feature_dim, grid, grid)


def test_pixels_are_standardised_as_the_models_own_configuration_says() -> None:
    looks = teacher("test_efficientnet")
    cfg = timm.models.get_pretrained_cfg("test_efficientnet")
    assert cfg is not None
    white, black = (looks.preprocess(torch.full((1, 3, 8, 8), v)).mean((0, 2, 3)) for v in (1.0, -1.0))
    mean, std = torch.tensor(cfg.mean), torch.tensor(cfg.std)
    torch.testing.assert_close(white, (1 - mean) / std)
    torch.testing.assert_close(black, -mean / std)


def test_it_stays_frozen_and_in_eval_mode_inside_a_module_that_trains() -> None:
    looks = teacher("test_resnet")
    torch.nn.ModuleList([looks]).train()
    assert not any(module.training for module in looks.modules())
    assert not any(p.requires_grad for p in looks.parameters())
    before = {k: v.clone() for k, v in looks.state_dict().items()}
    looks(images())
    assert all(torch.equal(v, before[k]) for k, v in looks.state_dict().items())


def test_gradients_reach_an_image_that_requires_them_and_nothing_is_kept_otherwise() -> None:
    looks = teacher()
    assert not looks(images()).requires_grad
    image = images().requires_grad_()
    torch.autograd.backward(looks(image).square().sum())
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    with torch.no_grad():
        assert not looks(image).requires_grad


def test_random_weights_are_a_function_of_the_seed_and_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first = teacher(seed=3)(images())
    assert "random weights (seed 3)" in caplog.text
    torch.manual_seed(99)
    assert torch.equal(first, teacher(seed=3)(images()))
    assert not torch.equal(first, teacher(seed=4)(images()))
    assert Timm.external(TimmConfig(use="timm", model="test_vit", weights="random", seed=3)) == "random:3"


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "wrapped.pth"])
def test_weights_from_a_file_give_that_models_features(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(7)
    source = create("test_vit", pretrained=False).eval()  # with its classifier, which a teacher has no use for
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"state_dict": source.state_dict()} if "wrapped" in suffix else source.state_dict(), path)
    looks = teacher(grid=10, weights=str(path))
    with torch.no_grad():
        expected = source.forward_features(looks.preprocess(images()))[:, 1:]
    torch.testing.assert_close(looks(images()).flatten(2).transpose(1, 2), expected)
    identity = Timm.external(looks.config)
    assert identity.startswith("sha256:")
    path.write_bytes(path.read_bytes() + b" ")
    assert Timm.external(looks.config) != identity


def test_a_file_of_another_model_is_refused_with_the_first_five_keys(tmp_path: Path) -> None:
    save_file(create("test_resnet", pretrained=False).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(GaekitError) as caught:
        teacher(weights=str(tmp_path / "other.safetensors"))
    message = str(caught.value)
    assert "other.safetensors" in message
    assert "missing: cls_token, pos_embed, " in message
    assert message.split("unexpected: ")[1].split(";")[0].count(",") == 5  # five keys and "..."


def test_a_file_with_tensors_of_another_shape_is_refused(tmp_path: Path) -> None:
    state = create("test_vit", pretrained=False).state_dict()
    state["norm.weight"] = torch.ones(65)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(GaekitError, match=r"1 of another shape: norm\.weight"):
        teacher(weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth", "text.pth"])
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    state = create("test_vit", pretrained=False).state_dict()
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    path.write_bytes(b"not found" if name.startswith("text") else path.read_bytes()[:5000])
    with pytest.raises(GaekitError, match=name):
        teacher(weights=str(path))


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": create("test_vit", pretrained=False)}, tmp_path / "whole_object.pth")
    with pytest.raises(GaekitError, match=r"whole_object\.pth: cannot be read"):
        teacher(weights=str(tmp_path / "whole_object.pth"))


def test_an_absent_file_is_named() -> None:
    with pytest.raises(GaekitError, match=r"no file nowhere\.pth"):
        teacher(weights="nowhere.pth")
    with pytest.raises(GaekitError, match=r"no file nowhere\.pth"):
        Timm.external(TimmConfig(use="timm", model="test_vit", weights="nowhere.pth"))


def test_an_unknown_model_is_answered_with_near_names() -> None:
    with pytest.raises(GaekitError, match=r"no model 'vit_tni_patch16_224'; did you mean vit_tiny_patch16_224"):
        teacher("vit_tni_patch16_224")
    with pytest.raises(GaekitError, match=r"no weights tagged 'xx'; tags: r160_in1k"):
        teacher("test_vit.xx")


def test_a_layer_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(GaekitError, match=r"layer 6 of test_vit; it has 6 layers: 0 to 5"):
        teacher(layer=6)


def test_a_model_of_one_size_refuses_another() -> None:
    with pytest.raises(GaekitError, match=r"takes 224 px only, a grid of 4 needs 128 px"):
        teacher("mixer_s32_224")


def test_without_the_hub_the_message_says_which_model_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(GaekitError) as caught:
        teacher(weights="hub")
    assert "test_vit: model.safetensors is not in" in str(caught.value)
    assert "`gaekit assets RECIPE --fetch` fetches it from hf.co/timm/test_vit.r160_in1k" in str(caught.value)
    assert caught.value.exit_code == 2
    with pytest.raises(GaekitError, match="test_vit4 has no published weights"):
        teacher("test_vit4", weights="hub")


def test_the_hubs_identity_is_the_repository() -> None:
    config = TimmConfig(use="timm", model="vit_base_patch16_224.mae")
    assert Timm.external(config) == "hub:timm/vit_base_patch16_224.mae"


PRESETS: list[tuple[type[FromTimm], str]] = [
    (DinoV2, "size"),
    (DinoV3, "size"),
    (Siglip, "size"),
    (Siglip2, "size"),
    (Mae, "size"),
]


@pytest.mark.parametrize(("cls", "field"), PRESETS)
def test_every_size_of_a_preset_is_a_published_model(cls: type[FromTimm], field: str) -> None:
    from typing import get_args

    for size in get_args(cls.Config.model_fields[field].annotation):
        config = cls.Config.model_validate({"use": cls.name, field: size})
        assert cls.external(config).startswith("hub:timm/vit_")


def test_dinov2_with_and_without_registers_are_other_models() -> None:
    plain, registers = (DinoV2Config(use="dinov2", size="small", registers=r) for r in (False, True))
    assert DinoV2.external(plain) == "hub:timm/vit_small_patch14_dinov2.lvd142m"
    assert DinoV2.external(registers) == "hub:timm/vit_small_patch14_reg4_dinov2.lvd142m"


def test_dinov2_can_resample_its_positions_as_its_authors_do() -> None:
    """Column j of 6 samples the old row of 14 at (j + 0.5) * 14 / 6.1 - 0.5 by the cubic kernel with a = -0.75."""
    from gaekit_teachers.positions import resample_dinov2

    old = torch.randn(14, generator=torch.Generator().manual_seed(0))
    model = create("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    table = old.view(1, 14, 1).expand(14, 14, 192).reshape(1, 196, 192)
    model.pos_embed = torch.nn.Parameter(torch.cat([torch.full((1, 1, 192), 9.0), table], 1))
    resample_dinov2(model, 6)
    expected = []
    for j in range(6):
        at = (j + 0.5) * 14 / 6.1 - 0.5
        near = [math.floor(at) + k for k in (-1, 0, 1, 2)]
        expected.append(sum(cubic(abs(at - n)) * old[min(max(n, 0), 13)].item() for n in near))
    columns = model.pos_embed[0, 1:].view(6, 6, 192)
    torch.testing.assert_close(columns[3, :, 5], torch.tensor(expected), atol=1e-5, rtol=0)
    assert (model.pos_embed[0, 0] == 9).all()
    assert model.patch_embed.img_size == (96, 96)


def cubic(x: float, a: float = -0.75) -> float:
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a


def test_dinov2s_two_ways_of_positions_differ_a_little() -> None:
    first, second = (
        DinoV2(
            DinoV2Config.model_validate({"use": "dinov2", "size": "small", "weights": "random", "positions": p}), grid=3
        )(images())
        for p in ("timm", "dinov2")
    )
    assert not torch.equal(first, second)
    assert first.shape == second.shape == (2, 384, 3, 3)


def test_it_runs_on_another_device_without_leaving_tensors_behind() -> None:
    """Fake CUDA tensors carry a device and no data: any constant made on the CPU would fail here."""
    for model in ("test_vit", "test_resnet"):
        looks = teacher(model)
        mode = fake_mode(allow_non_fake_inputs=False)
        state = {
            k: mode.from_tensor(v) for k, v in {**dict(looks.named_parameters()), **dict(looks.named_buffers())}.items()
        }
        with mode:
            on_cuda = {k: v.to("cuda") for k, v in state.items()}
            image = torch.empty(2, 3, 32, 32, device="cuda")
            feature = torch.func.functional_call(looks, on_cuda, (image,))
        assert feature.device.type == "cuda"
        assert feature.shape == (2, looks.feature_dim, 4, 4)
