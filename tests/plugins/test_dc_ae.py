"""The deep compression autoencoder keeps its promises, attends as its formula says, and refuses what makes no network.

That it computes DC-AE's numbers is shown by the golden files, made by diffusers (tests/interop/test_diffusers_imports).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gaekit.errors import GaekitError
from gaekit.testing import check_component
from gaekit_autoencoders.dc_ae import DcAeDecoder, DcAeDecoderConfig, DcAeEncoder, DcAeEncoderConfig
from gaekit_autoencoders.efficientvit import ChannelRMSNorm, LinearAttention, average_channels, repeat_channels

SMALL: dict[str, Any] = {"widths": (12, 12, 24, 24), "depths": (1, 1, 1, 1), "attention": (2, 3), "head_dim": 4}


def encoder(image_size: int = 32, stride: int = 8, channels: int = 6, **settings: Any) -> DcAeEncoder:
    config = DcAeEncoderConfig(use="dc_ae", **{**SMALL, **settings})
    return DcAeEncoder(config, image_size=image_size, stride=stride, channels=channels)


def decoder(latent_dim: int = 6, grid: int = 4, stride: int = 8, **settings: Any) -> DcAeDecoder:
    config = DcAeDecoderConfig(use="dc_ae", **{**SMALL, **settings})
    return DcAeDecoder(config, latent_dim=latent_dim, grid=grid, stride=stride)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("which", "settings"),
    [
        (DcAeEncoder, {"scales": (3,)}),
        (DcAeEncoder, {"downsample": "unshuffle", "depths": (0, 1, 1, 2), "shortcut": False, "scales": ()}),
        (DcAeDecoder, {"scales": (3,), "batch_norm": (0, 3), "relu": (0, 1), "out_activation": "silu"}),
        (DcAeDecoder, {"upsample": "shuffle", "depths": (0, 1, 1, 2), "shortcut": False, "scales": ()}),
    ],
)
def test_it_keeps_the_promises_of_its_kind(which: Any, settings: dict[str, Any]) -> None:
    check_component(which, **{**SMALL, **settings})


@pytest.mark.parametrize("side", [2, 5])  # fewer positions than channels of a head, and more
@pytest.mark.parametrize("scales", [(), (3, 5)])
def test_attention_is_that_of_its_formula(side: int, scales: tuple[int, ...]) -> None:
    block = LinearAttention(10, head_dim=4, scales=scales, norm=torch.nn.Identity()).double()
    x = numbers(2, 10, side, side).double()
    qkv = block.qkv(x)
    heads = torch.cat([qkv, *(scale(qkv) for scale in block.scales)], dim=1).reshape(2, -1, 12, side * side)
    assert heads.shape[1] == 2 * (1 + len(scales))
    mixed = torch.zeros(2, heads.shape[1], 4, side * side, dtype=torch.float64)
    for position in range(side * side):
        query, keys, values = heads[:, :, :4, position].relu(), heads[:, :, 4:8].relu(), heads[:, :, 8:]
        weight = (keys * query[..., None]).sum(dim=2)
        total = weight.sum(dim=2, keepdim=True)
        mixed[..., position] = (values * (weight / total.clamp(min=1e-15))[:, :, None]).sum(dim=3)
    expected = x + block.proj(mixed.reshape(2, -1, side, side))
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)  # it attends in float32


def test_a_norm_over_channels_has_scale_and_shift() -> None:
    norm = ChannelRMSNorm(3)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, -1.0])
    x = numbers(2, 3, 4, 4)
    scaled = x / (x.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    expected = scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


def test_channels_are_averaged_and_repeated_as_neighbours() -> None:
    x = torch.arange(6.0)[None, :, None, None]
    assert average_channels(x, 2).flatten().tolist() == [1.0, 4.0]
    assert repeat_channels(x[:, :2], 6).flatten().tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_batch_norms_keep_their_statistics_and_see_no_other_image() -> None:
    decode = decoder(batch_norm=(0, 1)).train()
    before = {key: value.clone() for key, value in decode.state_dict().items() if "running" in key}
    latent = numbers(3, 6, 4, 4)
    torch.testing.assert_close(decode(latent)[:1], decode(latent[:1]))
    assert len(before) == 4
    assert all(torch.equal(value, decode.state_dict()[key]) for key, value in before.items())


def test_by_default_it_is_sanas() -> None:
    with torch.device("meta"):
        encode = DcAeEncoder(DcAeEncoderConfig(use="dc_ae"), image_size=1024, stride=32, channels=32)
        decode = DcAeDecoder(DcAeDecoderConfig(use="dc_ae"), latent_dim=32, grid=32, stride=32)
    count = sum(p.numel() for half in (encode, decode) for p in half.parameters())
    assert count == 312_250_275  # diffusers' AutoencoderDC of these settings


def test_it_learns() -> None:
    torch.manual_seed(0)
    encode, decode = encoder(channels=24), decoder(latent_dim=24)
    optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=3e-3)
    image, losses = numbers(2, 3, 32, 32), []
    for _ in range(8):
        loss = (decode(encode(image)[1]) - image).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for half in (encode, decode) for p in half.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoder(stride=4), r"autoencoder\.encoder\.widths: 4 levels have stride 8, image\.stride is 4"),
        (lambda: encoder(image_size=36), r"8 does not divide image\.size = 36"),
        (lambda: encoder(depths=(1, 1, 1)), r"encoder\.depths: 3 levels, autoencoder\.encoder\.widths has 4"),
        (lambda: decoder(depths=(1, 0, 1, 1)), r"decoder\.depths: the first level and the last may have no block"),
        (lambda: encoder(attention=(3, 4)), r"encoder\.attention: no level 4; they are counted from 0 to 3"),
        (lambda: decoder(relu=(7,)), r"decoder\.relu: no level 7"),
        (lambda: encoder(scales=(4,)), r"encoder\.scales: a neighbourhood of 4 has no middle"),
        (lambda: encoder(head_dim=25), r"encoder\.head_dim: 25 is more than level 2 has channels, 24"),
        (lambda: encoder(channels=5), r"24 channels cannot be averaged to 5 of the latent"),
        (lambda: encoder(widths=(12, 12, 24, 36)), r"of 24 channels cannot be averaged to 36"),
        (lambda: encoder(widths=(12, 6, 24, 24), downsample="unshuffle"), r"6 channels are no blocks of 2 x 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises(GaekitError, match=message):
        make()
