"""A frozen teacher as encoder: its features are the latent, and it is neither trained nor saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_cuda import fake_cuda
from safetensors.torch import save_file
from torch import Tensor
from torch._guards import detect_fake_mode

from gaekit.api import Encoder, Teacher
from gaekit.errors import ArtifactError, GaekitError
from gaekit.plugins import Registry, build, load_plugins
from gaekit.recipe.schema import Train
from gaekit.store.artifact import open_artifact, save_artifact
from gaekit.store.models import Autoencoder, AutoencoderSpec, load_autoencoder, save_autoencoder
from gaekit.testing import check_component
from gaekit.train.ema import EMA
from gaekit.train.optim import make_optimizer
from gaekit_autoencoders.frozen_teacher import FrozenTeacherConfig, FrozenTeacherEncoder
from gaekit_autoencoders.vit import ViTDecoderConfig
from gaekit_regularizers.standardize import Standardize
from gaekit_teachers.timm_models import Timm, TimmConfig

WIDTH = 64


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def teacher(**settings: Any) -> TimmConfig:
    return TimmConfig(**{"use": "timm", "model": "test_vit", "weights": "random", **settings})


def config(**settings: Any) -> FrozenTeacherConfig:
    return FrozenTeacherConfig(use="frozen_teacher", teacher=teacher(**settings))


def encoder(registry: Registry, channels: int = WIDTH, **settings: Any) -> Encoder:
    sizes = {"image_size": 32, "stride": 8, "channels": channels}
    return build(Encoder, config(**settings), registry, **sizes)


def autoencoder(registry: Registry, **settings: Any) -> Autoencoder:
    decoder = ViTDecoderConfig(use="vit", depth=1, width=32, heads=2)
    regularizer = Standardize.Config(use="standardize")
    torch.manual_seed(0)
    return Autoencoder(AutoencoderSpec(32, 8, WIDTH, config(**settings), decoder, regularizer), registry)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def test_the_latent_is_the_teachers_feature(registry: Registry) -> None:
    hidden, moments = encoder(registry)(images())
    expected = Timm(teacher(), grid=4)(images())
    assert torch.equal(moments, expected)
    assert torch.equal(hidden, expected)


class Seeing(Teacher):
    """Remembers what it was shown."""

    name = "seeing"
    feature_dim = WIDTH

    def __init__(self, config: Any, *, grid: int, input_size: int | None = 28):
        super().__init__(config, grid=grid)
        self.input_size = input_size

    def forward(self, image_B3RR: Tensor) -> Tensor:
        self.seen = image_B3RR
        return torch.zeros(len(image_B3RR), WIDTH, self.grid, self.grid)


@pytest.mark.parametrize(("resize", "given"), [("plain", 28), ("plain", 32), ("teacher", 28)])
def test_plain_resizing_is_raes(resize: Any, given: int) -> None:
    """rae.py: interpolate(x, size, mode="bicubic", align_corners=False) where the image has another size."""
    settings = FrozenTeacherConfig(use="frozen_teacher", teacher=teacher(), resize=resize)
    shown = Seeing(teacher(), grid=4, input_size=given)
    FrozenTeacherEncoder(settings, image_size=32, stride=8, channels=WIDTH, teacher=lambda grid: shown)(images())
    plain = F.interpolate(images(), size=(28, 28), mode="bicubic", align_corners=False)
    smooth = F.interpolate(images(), size=(28, 28), mode="bicubic", align_corners=False, antialias=True)
    assert not torch.allclose(plain, smooth, atol=0.05)
    torch.testing.assert_close(shown.seen, plain if (resize, given) == ("plain", 28) else images())


def test_plain_resizing_needs_a_size() -> None:
    settings = FrozenTeacherConfig(use="frozen_teacher", teacher=teacher(), resize="plain")
    with pytest.raises(GaekitError, match=r"resize: plain resizes .* teacher 'seeing' says none; use teacher"):
        FrozenTeacherEncoder(settings, image_size=32, stride=8, channels=WIDTH,
                             teacher=lambda grid: Seeing(teacher(), grid=grid, input_size=None))  # fmt: skip


def test_layer_norm_without_the_teachers_own_is_its_norm_without_weight_and_bias(registry: Registry) -> None:
    """RAE sets the LayerNorm's weight and bias to None; random weights of timm have 1 and 0 there."""
    settings = FrozenTeacherConfig(use="frozen_teacher", teacher=teacher(norm=False), layer_norm=True)
    bare = build(Encoder, settings, registry, image_size=32, stride=8, channels=WIDTH)(images())[1]
    norm = Timm(teacher(), grid=4).network.get_submodule("model.norm")
    assert torch.equal(norm.get_parameter("weight"), torch.ones(WIDTH))
    torch.testing.assert_close(bare, Timm(teacher(), grid=4)(images()))
    torch.testing.assert_close(bare.mean(1), torch.zeros(2, 4, 4), atol=1e-5, rtol=0)


def test_it_keeps_the_promises_of_its_kind(registry: Registry) -> None:
    check_component(FrozenTeacherEncoder, registry=registry, sizes={"channels": WIDTH}, teacher=teacher())


def test_nothing_is_trained_or_saved(registry: Registry) -> None:
    encode = encoder(registry)
    assert isinstance(encode, FrozenTeacherEncoder)
    assert not list(encode.parameters())
    assert list(encode.state_dict()) == ["_extra_state"]
    encode.train()
    assert encode.teacher is not None
    assert not encode.teacher.network.training
    assert not encode(images())[1].requires_grad


def test_it_moves_with_its_owner(registry: Registry) -> None:
    encode = torch.nn.ModuleDict({"encoder": encoder(registry)}).to(torch.float64)["encoder"]
    assert isinstance(encode, FrozenTeacherEncoder)
    assert encode.teacher is not None
    assert {p.dtype for p in encode.teacher.network.parameters()} == {torch.float64}


def test_the_wrong_width_is_refused_with_the_right_one(registry: Registry) -> None:
    with pytest.raises(
        GaekitError, match=r"'timm' gives 64 channels and the regularizer wants 32; set `latent_dim: 64`"
    ):
        encoder(registry, channels=32)


def test_a_stride_that_does_not_divide_is_refused(registry: Registry) -> None:
    with pytest.raises(GaekitError, match=r"5 does not divide image\.size = 32"):
        build(Encoder, config(), registry, image_size=32, stride=5, channels=WIDTH)


def test_asking_for_a_last_layer_says_why_there_is_none(registry: Registry) -> None:
    with pytest.raises(GaekitError, match="'frozen_teacher' trains no layer"):
        _ = encoder(registry).last_layer


def test_its_sizes_are_known_without_the_teachers_weights(registry: Registry, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.safetensors")
    with torch.device("meta"):
        encode = encoder(registry, weights=absent)
    assert encode.hidden_dim == WIDTH
    with pytest.raises(GaekitError, match="built on the meta device"):
        encode(images())
    with pytest.raises(GaekitError, match=r"no file .*absent\.safetensors"):
        encoder(registry, weights=absent)


def test_an_autoencoder_trains_its_decoder_alone_and_comes_back_from_its_file(
    registry: Registry, tmp_path: Path
) -> None:
    model = autoencoder(registry)
    before = model.encoder(images())[1].clone()
    optimizer = make_optimizer(model, Train(steps=4, batch=2, lr=1e-2))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.decoder.parameters()}
    ema = EMA(model, 0.5)
    losses = []
    for step in range(8):
        loss = (model.reconstruct(images()) - images()).square().mean()
        torch.autograd.backward(loss, inputs=[p for group in optimizer.param_groups for p in group["params"]])
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(model.encoder(images())[1], before)

    path = tmp_path / "autoencoder.safetensors"
    save_autoencoder(path, model.state_dict(), model.spec, ema.tensors, {})
    assert not [name for name in open_artifact(path, "autoencoder").names() if "network" in name]
    model.eval()
    assert torch.equal(load_autoencoder(path, registry, ema=False).reconstruct(images()), model.reconstruct(images()))
    model.load_state_dict(ema.tensors)
    assert torch.equal(load_autoencoder(path, registry).reconstruct(images()), model.reconstruct(images()))


def test_an_artifact_of_other_teacher_weights_is_refused(registry: Registry, tmp_path: Path) -> None:
    network = Timm(teacher(seed=1), grid=4).network.get_submodule("model")
    file, path = tmp_path / "teacher.safetensors", tmp_path / "autoencoder.safetensors"
    save_file(network.state_dict(), file)
    model = autoencoder(registry, weights=str(file)).eval()
    save_autoencoder(path, model.state_dict(), model.spec, {}, {})
    assert torch.equal(load_autoencoder(path, registry).reconstruct(images()), model.reconstruct(images()))
    save_file({key: 2 * value for key, value in network.state_dict().items()}, file)
    with pytest.raises(GaekitError, match="other teacher weights than timm: sha256:"):
        load_autoencoder(path, registry)
    file.unlink()
    with pytest.raises(GaekitError, match=r"no file .*teacher\.safetensors"):
        load_autoencoder(path, registry)


def test_an_artifact_of_a_trained_encoder_does_not_fit(registry: Registry, tmp_path: Path) -> None:
    save_artifact(tmp_path / "a.safetensors", "encoder", {}, {"weights": {"conv_in.weight": torch.ones(1)}})
    with pytest.raises(ArtifactError, match="missing: _extra_state"):
        open_artifact(tmp_path / "a.safetensors", "encoder").load_into(encoder(registry), "weights")


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(registry: Registry, bf16: bool) -> None:
    encode = encoder(registry)
    with fake_cuda(bf16):
        mode = detect_fake_mode()
        assert mode is not None
        encode._apply(lambda tensor: mode.from_tensor(tensor).to("cuda"))  # type: ignore[no-untyped-call]
        _, moments = encode(torch.randn(2, 3, 32, 32))
    assert (moments.device.type, moments.dtype, tuple(moments.shape)) == ("cuda", torch.float32, (2, WIDTH, 4, 4))


def test_compiles_without_a_graph_break(registry: Registry) -> None:
    encode = encoder(registry)
    compiled = torch.compile(encode, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), encode(images()))
