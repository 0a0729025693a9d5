"""The convolutional autoencoder is latent diffusion's: its published numbers, its sizes, and clear refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_cuda import fake_cuda
from parity_helpers import close, load_fixture
from pydantic import ValidationError
from torch import Tensor

from gaekit.errors import ArtifactError, GaekitError
from gaekit.interop.ldm_vae import autoencoder_from_published, autoencoder_to_published, sizes_of_published
from gaekit.nn.attention import use_backend
from gaekit.testing import check_component
from gaekit_autoencoders.conv import ConvDecoder, ConvDecoderConfig, ConvEncoder, ConvEncoderConfig
from gaekit_regularizers.kl import Kl

SMALL: dict[str, Any] = {"use": "conv", "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (16,)}


def encoder(image_size: int = 32, stride: int = 2, channels: int = 8, **settings: Any) -> ConvEncoder:
    config = ConvEncoderConfig(**{**SMALL, **settings})
    return ConvEncoder(config, image_size=image_size, stride=stride, channels=channels)


def decoder(latent_dim: int = 4, grid: int = 16, stride: int = 2, **settings: Any) -> ConvDecoder:
    return ConvDecoder(ConvDecoderConfig(**{**SMALL, **settings}), latent_dim=latent_dim, grid=grid, stride=stride)


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def published() -> tuple[ConvEncoder, ConvDecoder, dict[str, Tensor], dict[str, Tensor]]:
    _, state, inputs, outputs = load_fixture("ldm_vae")
    encode, decode = encoder(), decoder()
    encoder_state, decoder_state = autoencoder_from_published(state)
    encode.load_state_dict(encoder_state)
    decode.load_state_dict(decoder_state)
    return encode.eval(), decode.eval(), inputs, outputs


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_the_published_autoencoder_is_reproduced(backend: Any) -> None:
    encode, decode, inputs, outputs = published()
    use_backend(encode, backend)
    use_backend(decode, backend)
    _, moments = encode(inputs["image"])
    regularizer = Kl(Kl.Config(use="kl", weight=1.0), latent_dim=4, grid=8)
    latent = regularizer(moments)
    assert isinstance(latent.std_BDHW, Tensor)
    close(latent.mean_BDHW, outputs["mean"])
    close(2 * latent.std_BDHW.log(), outputs["logvar"])
    close(decode(latent.mean_BDHW), outputs["reconstruction"])
    penalties = [regularizer(one).penalty for one in (*moments.split(1), moments)]
    each, batch = [p.value for p in penalties[:-1]], penalties[-1].value
    close(torch.stack(each), outputs["kl_per_image"])
    close(batch, outputs["kl_per_image"].mean())


def test_published_names_survive_the_trip_both_ways() -> None:
    state = load_fixture("ldm_vae")[1]
    back = autoencoder_to_published(*autoencoder_from_published(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    storages = [value.untyped_storage().data_ptr() for value in back.values()]
    assert len(set(storages)) == len(storages)  # safetensors refuses tensors that share one


def test_the_autoencoder_is_found_in_a_whole_model_and_in_a_training() -> None:
    state = load_fixture("ldm_vae")[1]
    whole = {f"first_stage_model.{key}": value for key, value in state.items()} | {"model.x": torch.ones(1)}
    training = state | {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.ones(())}
    for given in (whole, training):
        halves = autoencoder_from_published(given)
        assert [half.keys() for half in halves] == [half.keys() for half in autoencoder_from_published(state)]


def test_other_files_are_refused_by_name() -> None:
    state = load_fixture("ldm_vae")[1]
    with pytest.raises(ArtifactError, match=r"and holds blocks\.0\.weight"):
        autoencoder_from_published({**state, "blocks.0.weight": torch.ones(1)})
    with pytest.raises(ArtifactError, match="should hold encoder"):
        autoencoder_from_published({k: v for k, v in state.items() if not k.startswith("decoder.")})
    with pytest.raises(ArtifactError, match=r"and lacks decoder\.conv_in\.weight"):
        autoencoder_from_published({k: v for k, v in state.items() if k != "decoder.conv_in.weight"})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ch_mult": (2, 1), "attn_resolutions": (32, 16), "num_res_blocks": 2},
        {"attn_resolutions": (), "quant_conv": False},
        {"resolution": 64, "attn_resolutions": (64,)},
    ],
)
def test_sizes_are_read_off_the_tensors(settings: dict[str, Any]) -> None:
    between: dict[str, dict[str, Any]] = {"encoder": {"conv_out_channels": 12}, "decoder": {"conv_in_channels": 6}}
    if not settings.get("quant_conv", True):
        between = {"encoder": {}, "decoder": {}}
    made = encoder(**settings, **between["encoder"]), decoder(**settings, **between["decoder"])
    state = autoencoder_to_published(*(half.state_dict() for half in made))
    sizes = sizes_of_published(state, resolution=settings.get("resolution", 32))
    assert (sizes.stride, sizes.latent_dim, sizes.moments) == (2, 4, 8)
    rebuilt = encoder(**sizes.encoder), decoder(**sizes.decoder)
    for half, again, weights in zip(made, rebuilt, autoencoder_from_published(state), strict=True):
        again.load_state_dict(weights)
        assert again.config.model_copy(update={"resolution": None}) == half.config.model_copy(
            update={"resolution": None}
        )


def test_halves_of_two_autoencoders_are_refused() -> None:
    state = autoencoder_to_published(encoder().state_dict(), decoder(ch_mult=(1, 1)).state_dict())
    with pytest.raises(ArtifactError, match="halves of two autoencoders"):
        sizes_of_published(state, resolution=32)


def test_by_default_it_is_stable_diffusions() -> None:
    with torch.device("meta"):
        encode = ConvEncoder(ConvEncoderConfig(use="conv"), image_size=256, stride=8, channels=8)
        decode = ConvDecoder(ConvDecoderConfig(use="conv"), latent_dim=4, grid=32, stride=8)
    # The published SD-VAE has 83,653,863 parameters; 72 and 20 are those of its 1 x 1 convolutions.
    assert sum(p.numel() for p in encode.parameters()) == 34_163_592 + 72
    assert sum(p.numel() for p in decode.parameters()) == 49_490_179 + 20


def test_the_sizes_of_va_vae() -> None:
    settings: dict[str, Any] = {"use": "conv", "ch_mult": (1, 1, 2, 2, 4), "attn_resolutions": (16,)}
    with torch.device("meta"):
        encode = ConvEncoder(ConvEncoderConfig(**settings), image_size=256, stride=16, channels=64)
        decode = ConvDecoder(ConvDecoderConfig(**settings), latent_dim=32, grid=16, stride=16)
        moments = encode(torch.empty(1, 3, 256, 256))[1]
        assert decode(moments[:, :32]).shape == (1, 3, 256, 256)
    assert moments.shape == (1, 64, 16, 16)
    assert [type(level.get_submodule("attentions.0")).__name__ for level in encode.levels] == ["Identity"] * 4 + [
        "SpatialAttention"
    ]


@pytest.mark.parametrize("which", [ConvEncoder, ConvDecoder])
@pytest.mark.parametrize("attention", [(), (4,), (32, 8)])
def test_it_keeps_the_promises_of_its_kind(which: Any, attention: tuple[int, ...]) -> None:
    settings: dict[str, Any] = {"ch": 32, "ch_mult": (1, 2, 1, 2), "num_res_blocks": 1, "attn_resolutions": attention}
    check_component(which, **settings, dropout=0.1)


@pytest.mark.parametrize("which", [ConvEncoder, ConvDecoder])
def test_with_patches_it_keeps_them_too(which: Any) -> None:
    settings: dict[str, Any] = {"restore": True} if which is ConvDecoder else {}
    sizes = {"channels": 8} if which is ConvEncoder else {"latent_dim": 8}
    check_component(which, **settings, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, patch=2, sizes=sizes)


def test_patches_are_blocks_of_positions_as_channels() -> None:
    plain, patched = encoder(channels=6), encoder(stride=4, channels=24, patch=2)
    patched.load_state_dict(plain.state_dict())
    hidden, moments = patched(images())
    assert hidden.shape == (2, patched.hidden_dim, 8, 8)
    wanted = plain(images())[1]
    for channel, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(moments[:, channel::4], wanted[:, :, row::2, column::2])
    whole, fine = decoder(latent_dim=24, grid=8, stride=4, patch=2), decoder(latent_dim=6)
    fine.load_state_dict(whole.state_dict())
    assert torch.equal(whole(moments), fine(wanted))


def test_restore_scales_and_shifts_each_channel_of_the_latent() -> None:
    restoring, plain = decoder(restore=True), decoder()
    plain.load_state_dict({k: v for k, v in restoring.state_dict().items() if not k.startswith("restore.")})
    latent = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(restoring(latent), plain(latent))  # it begins as the identity
    scale, shift = torch.tensor([2.0, 0.5, 1.0, 3.0]), torch.tensor([0.0, 1.0, -1.0, 0.5])
    restoring.get_parameter("restore.scale").data[:, 0, 0] = scale
    restoring.get_parameter("restore.shift").data[:, 0, 0] = shift
    torch.testing.assert_close(restoring(latent), plain(latent * scale[:, None, None] + shift[:, None, None]))


def test_hidden_is_what_the_last_layer_reads() -> None:
    encode = encoder()
    hidden, moments = encode(images())
    assert hidden.shape == (2, encode.hidden_dim, 16, 16)
    torch.testing.assert_close(moments, encode.quant_conv(encode.conv_out(hidden)))
    assert encode.last_layer is encode.conv_out.weight


def test_dropout_acts_in_training_alone() -> None:
    encode = encoder(dropout=0.5)
    first, second = encode(images())[1], encode(images())[1]
    assert not torch.equal(first, second)
    encode.eval()
    assert torch.equal(encode(images())[1], encode(images())[1])


def test_it_learns() -> None:
    torch.manual_seed(0)
    encode, decode = encoder(channels=4), decoder()
    optimizer = torch.optim.Adam([*encode.parameters(), *decode.parameters()], lr=1e-3)
    losses = []
    for _ in range(8):
        loss = (decode(encode(images())[1]) - images()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None for half in (encode, decode) for p in half.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoder(stride=4), r"autoencoder\.encoder\.ch_mult: 2 levels have stride 2, image\.stride is 4"),
        (lambda: decoder(stride=4), r"autoencoder\.decoder\.ch_mult: 2 levels have stride 2, image\.stride is 4"),
        (lambda: encoder(image_size=33), r"2 does not divide image\.size = 33"),
        (lambda: encoder(attn_resolutions=(16, 8)), r"no level has side 8; an image of 32 px has levels of 32, 16"),
        (lambda: encoder(ch=24), "a level of 24 channels cannot be normalised in 32 groups"),
        (lambda: encoder(stride=2, patch=2), r"2 levels and patch 2 have stride 4, image\.stride is 2"),
        (
            lambda: encoder(stride=4, patch=2, channels=6),
            "6 moments cannot fill 2 x 2 positions, a multiple of 4 can",
        ),
        (lambda: encoder(quant_conv=False, conv_out_channels=12), "needs `quant_conv: true` to become 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises(GaekitError, match=message):
        make()


@pytest.mark.parametrize("wrong", [{"ch_mult": ()}, {"ch": 0}, {"dropout": 1.0}, {"attention": [16]}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConvEncoderConfig(**{**SMALL, **wrong})


def test_outputs_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        hidden, moments = encoder(channels=4)(images())
        image = decoder()(moments)
    assert {hidden.dtype, moments.dtype, image.dtype} == {torch.float32}


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(bf16: bool) -> None:
    with fake_cuda(bf16) as watch:
        encode, decode = encoder(channels=4), decoder()
        inner = encode.conv_out, encode.get_submodule("mid.1.attention.proj"), decode.get_submodule("levels.1.resample")
        seen = [watch(module) for module in inner]
        _, moments = encode(torch.randn(2, 3, 32, 32))
        image = decode(moments)
    assert (image.device.type, image.dtype) == ("cuda", torch.float32)
    assert seen == [[torch.bfloat16 if bf16 else torch.float32]] * 3


def test_compiles_without_a_graph_break() -> None:
    encode, decode = encoder(channels=4).eval(), decoder().eval()

    def reconstruct(image: Tensor) -> Tensor:
        return decode(encode(image)[1])  # type: ignore[no-any-return]

    compiled = torch.compile(reconstruct, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), reconstruct(images()))
