"""RAE's encoder and decoder keep their promises, freeze what is frozen, and refuse what makes no network.

That they compute RAE's numbers is shown by the golden files, made by diffusers (tests/interop/test_diffusers_imports).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.errors import GaekitError
from gaekit.nn.mlp import MLP
from gaekit.testing import check_component
from gaekit_autoencoders.rae import RaeDecoder, RaeDecoderConfig, RaeEncoder, RaeEncoderConfig
from gaekit_regularizers.standardize import Standardize

SMALL: dict[str, Any] = {"depth": 2, "width": 32, "heads": 4, "hidden": 48}


def encoder(image_size: int = 32, stride: int = 8, channels: int = 32, **settings: Any) -> RaeEncoder:
    config = RaeEncoderConfig(use="rae", **{**SMALL, **settings})
    return RaeEncoder(config, image_size=image_size, stride=stride, channels=channels)


def decoder(**settings: Any) -> RaeDecoder:
    config = RaeDecoderConfig(use="rae", **{**SMALL, **settings})
    return RaeDecoder(config, latent_dim=6, grid=4, stride=8)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", [{}, {"frozen": False, "gelu": "tanh", "prefix": 0, "patch": 8}])
def test_the_encoder_keeps_the_promises_of_its_kind(settings: dict[str, Any]) -> None:
    check_component(RaeEncoder, **SMALL, **settings, sizes={"channels": 32})


@pytest.mark.parametrize("restore", ["none", "channel", "position"])
def test_the_decoder_keeps_the_promises_of_its_kind(restore: str) -> None:
    check_component(RaeDecoder, **SMALL, restore=restore)


def test_a_frozen_encoder_trains_nothing_and_says_so() -> None:
    frozen, free = encoder(), encoder(frozen=False)
    assert not [name for name, p in frozen.named_parameters() if p.requires_grad]
    with pytest.raises(GaekitError, match="a frozen 'rae' trains no layer, so no weight can be adapted"):
        _ = frozen.last_layer
    assert free.last_layer is free.blocks[-1].get_parameter("mlp.fc2.weight")
    assert all(p.requires_grad for p in free.parameters())


def test_tokens_before_the_patches_are_seen_and_left_out() -> None:
    encode = encoder(prefix=3)
    feature, moments = encode(numbers(2, 3, 32, 32))
    assert feature is moments
    assert feature.shape == (2, 32, 4, 4)
    last = feature.movedim(1, -1)
    torch.testing.assert_close(last.mean(-1), torch.zeros(2, 4, 4), atol=1e-5, rtol=0)
    encode.prefix.data += 1
    assert not torch.allclose(encode(numbers(2, 3, 32, 32))[0], feature)


def test_images_are_resized_to_the_encoder_s_patches_and_standardised() -> None:
    encode = encoder(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    seen = []
    encode.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = numbers(1, 3, 32, 32)
    encode(image)
    assert seen[0].shape == (1, 3, 56, 56)  # 4 x 4 patches of 14 pixels
    larger = F.interpolate((image + 1) / 2, size=(56, 56), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(value)[:, None, None] for value in ((0.1, 0.2, 0.3), (0.5, 1.0, 2.0)))
    torch.testing.assert_close(seen[0], (larger - mean) / std, atol=1e-5, rtol=1e-5)


def test_pixels_are_brought_back_by_mean_and_spread() -> None:
    decode = decoder(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    nn.init.zeros_(decode.linear_out.weight)
    nn.init.constant_(decode.linear_out.bias, 0.25)
    image = decode(numbers(1, 6, 4, 4))
    expected = 2 * (0.25 * torch.tensor([0.5, 1.0, 2.0]) + torch.tensor([0.1, 0.2, 0.3])) - 1
    torch.testing.assert_close(image, expected[None, :, None, None].expand(1, 3, 32, 32))


def test_restoring_undoes_a_standardisation_at_each_position() -> None:
    decode = decoder(restore="position")
    norm = Standardize(Standardize.Config(use="standardize", statistics="position", momentum=0), latent_dim=6, grid=4)
    norm.mean.copy_(numbers(6, 4, 4))
    norm.variance.copy_(numbers(6, 4, 4).square() + 0.1)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    restore = decode.get_submodule("restore")
    restore.get_parameter("scale").data = (norm.variance + 1e-5).sqrt()
    restore.get_parameter("shift").data = norm.mean.clone()
    raw = 3 * numbers(5, 6, 4, 4)
    torch.testing.assert_close(restore(norm.train()(raw).mean_BDHW), raw, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, norm.state_dict()[key]) for key, value in before.items())  # of momentum 0
    assert not Standardize.depends_on_batch(norm.config)
    assert Standardize.depends_on_batch(Standardize.Config(use="standardize"))


def test_an_mlp_may_have_the_exact_gelu() -> None:
    exact, tanh, x = MLP(4, 6, gelu="exact"), MLP(4, 6), numbers(3, 4)
    tanh.load_state_dict(exact.state_dict())
    torch.testing.assert_close(exact(x), exact.fc2(F.gelu(exact.fc1(x))))
    torch.testing.assert_close(tanh(x), exact.fc2(F.gelu(exact.fc1(x), approximate="tanh")))


def test_by_default_it_is_dinov2_b_and_rae_s_decoder() -> None:
    with torch.device("meta"):
        encode = RaeEncoder(RaeEncoderConfig(use="rae"), image_size=256, stride=16, channels=768)
        decode = RaeDecoder(RaeDecoderConfig(use="rae"), latent_dim=768, grid=16, stride=16)
    each = 4 * 768 * 769 + 3072 * 769 + 768 * 3073 + 4 * 768  # attention, MLP, two norms: those of ViT-B
    assert sum(p.numel() for p in encode.blocks.parameters()) == 12 * each
    assert encode(torch.empty(1, 3, 256, 256, device="meta"))[1].shape == (1, 768, 16, 16)
    assert decode(torch.empty(1, 768, 16, 16, device="meta")).shape == (1, 3, 256, 256)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoder(channels=6), r"encoder\.width: 32 channels are those .* wants 6; set `latent_dim: 32`"),
        (lambda: encoder(image_size=36), r"8 does not divide image\.size = 36"),
        (lambda: encoder(heads=5), "5 heads cannot share a width of 32"),
        (lambda: decoder(width=34, heads=2), "34 cannot carry two-dimensional sin-cos positions"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises(GaekitError, match=message):
        make()
