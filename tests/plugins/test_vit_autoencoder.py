import pytest
import torch
from fake_cuda import fake_cuda
from parity_helpers import close, load_fixture
from pydantic import ValidationError

from gaekit.errors import GaekitError
from gaekit.interop.gae import tokenizer_from_published
from gaekit.nn.norm import rms_normalize
from gaekit.testing import check_component
from gaekit_autoencoders.vit import SIZES, ViTDecoder, ViTDecoderConfig, ViTEncoder, ViTEncoderConfig

SMALL = {"use": "vit", "depth": 2, "width": 64, "heads": 4}


def encoder(channels=8, **settings):
    return ViTEncoder(ViTEncoderConfig(**{**SMALL, **settings}), image_size=32, stride=8, channels=channels)


def decoder(**settings):
    return ViTDecoder(ViTDecoderConfig(**{**SMALL, **settings}), latent_dim=8, grid=4, stride=8)


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_published_tokenizer_is_reproduced():
    _, state, inputs, outputs = load_fixture("gae_tokenizer")
    encode, decode = encoder(), decoder()
    encoder_state, decoder_state = tokenizer_from_published(state)
    encode.load_state_dict(encoder_state)
    decode.load_state_dict(decoder_state)
    hidden, moments = encode(inputs["image"])
    close(hidden, outputs["features"])
    latent = rms_normalize(moments, dim=1, eps=1e-6)
    close(latent, outputs["latent"])
    close(decode(latent), outputs["reconstruction"])


def test_small_networks_for_a_cpu_run_and_learn():
    settings = {"depth": 4, "width": 128, "heads": 4}
    encode, decode = encoder(channels=16, **settings), decoder(**settings)
    hidden, moments = encode(images())
    assert (hidden.shape, moments.shape) == ((2, 128, 4, 4), (2, 16, 4, 4))
    image = decode(moments[:, :8])
    assert image.shape == (2, 3, 32, 32)
    (image - images()).abs().mean().backward()
    for part in (encode, decode):
        assert part.last_layer.grad.any()
        assert all(p.grad is not None for p in part.parameters())


def test_last_layers_make_the_moments_and_the_pixels():
    encode, decode = encoder(), decoder()
    with torch.no_grad():
        for part in (encode, decode):
            part.last_layer.zero_()
    hidden, moments = encode(images())
    assert hidden.any()
    assert not moments.any()
    assert not decode(torch.ones(1, 8, 4, 4)).any()


def test_patches_of_the_output_lie_where_their_latents_do():
    decode = decoder(depth=1)
    decode.trunk.blocks[0].attn.proj.weight.data.zero_()  # no exchange between positions
    latent = torch.zeros(1, 8, 4, 4)
    moved = latent.clone()
    moved[0, :, 1, 2] = 1
    changed = (decode(latent) != decode(moved)).any(1)[0]
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[8:16, 16:24] = True
    assert torch.equal(changed & expected, changed)
    assert changed[expected].float().mean() > 0.9


def test_convolutions_that_look_at_one_position_are_the_linear_layer():
    torch.manual_seed(0)
    plain, convolved = decoder(), decoder(conv_width=12)
    shared = {key: value for key, value in plain.state_dict().items() if not key.startswith("linear_out")}
    convolved.load_state_dict(shared, strict=False)
    head = convolved.head
    with torch.no_grad():
        # Of a patch's 8 x 8 pixels of 3 colours make 4 x 4 positions of 12: colour, row and column of 2 x 2.
        pixels = plain.linear_out.weight.reshape(4, 2, 4, 2, 3, 64).permute(0, 2, 4, 1, 3, 5)
        head.linear.weight.copy_(pixels.reshape(-1, 64))
        head.conv_out.weight.zero_()
        head.conv_out.bias.zero_()
        head.conv_out.weight[:, :, 1, 1] = torch.eye(12)
        latent = torch.randn(2, 8, 4, 4)
        close(convolved(latent), plain(latent), 1e-6)


def test_convolutions_join_neighbouring_patches():
    torch.manual_seed(0)
    decode = decoder(depth=1, conv_width=16, conv_blocks=2)
    decode.trunk.blocks[0].attn.proj.weight.data.zero_()  # no exchange between positions
    for block in decode.head.blocks:
        torch.nn.init.normal_(block.conv2.weight, std=0.1)
    latent = torch.zeros(1, 8, 4, 4)
    moved = latent.clone()
    moved[0, :, 1, 1] = 1
    changed = (decode(latent) != decode(moved)).any(1)[0]
    reach = torch.zeros(32, 32, dtype=torch.bool)
    reach[:26, :26] = True  # five convolutions over half the side: 10 pixels around rows and columns 8 to 16
    assert torch.equal(changed & reach, changed)
    assert changed[reach].float().mean() > 0.9


def test_a_decoder_with_convolutions_keeps_the_contract_and_learns():
    check_component(ViTDecoder, depth=1, width=32, heads=2, conv_width=16)
    decode = decoder(conv_width=16)
    decode(torch.randn(2, 8, 4, 4)).square().mean().backward()
    assert decode.last_layer is decode.head.conv_out.weight
    assert decode.last_layer.grad.any()
    with torch.no_grad():
        decode.last_layer.zero_()
        decode.head.conv_out.bias.zero_()
    assert not decode(torch.ones(1, 8, 4, 4)).any()


def test_convolutions_over_half_the_side_need_an_even_stride():
    with pytest.raises(GaekitError, match=r"autoencoder\.decoder\.conv_width: image\.stride = 5 is odd"):
        ViTDecoder(ViTDecoderConfig(**SMALL, conv_width=16), latent_dim=8, grid=4, stride=5)


@pytest.mark.parametrize(
    ("settings", "spread"),
    [({}, 3**-0.5), ({"init_std": 0.02}, 0.02 * 128**0.5), ({"init_std": 0.0}, 0.0)],  # sqrt(width) * std of a weight
)
def test_a_fresh_decoder_makes_pixels_of_the_spread_that_its_start_gives(settings, spread):
    torch.manual_seed(0)
    image = decoder(width=128, **settings)(torch.randn(8, 8, 4, 4))
    assert image.std().item() == pytest.approx(spread, rel=0.05)


def test_sizes_by_name_and_what_overrides_them():
    assert ViTEncoderConfig(use="vit", size="large").shape == SIZES["large"] == (24, 1024, 16)
    assert ViTEncoderConfig(use="vit", size="large", depth=2).shape == (2, 1024, 16)
    with torch.device("meta"):
        large = ViTEncoder(ViTEncoderConfig(use="vit", size="large"), image_size=256, stride=16, channels=32)
    # 24 blocks of 4 * 1024^2 + 3 * 1024 * 2816, patches, positions, 1024 -> 1024 and 1024 -> 32.
    matrices = 24 * (4 * 1024**2 + 3 * 1024 * 2816) + 768 * 1024 + 256 * 1024 + 1024**2 + 1024 * 32
    assert sum(p.numel() for p in large.parameters()) == matrices


@pytest.mark.parametrize(
    "settings",
    [{"mlp": "gelu"}, {"norm": "layer"}, {"qk_norm": False}, {"rope": True}, {"bias": True}, {"mlp_multiple": 1}],
)
def test_every_switch_changes_the_function(settings):
    torch.manual_seed(0)
    plain = encoder()
    torch.manual_seed(0)
    switched = encoder(**settings)
    if "mlp_multiple" not in settings:  # which changes shapes
        switched.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in switched.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(0.1)
    hidden, _ = switched(images())
    assert hidden.isfinite().all()
    assert not torch.allclose(hidden, plain(images())[0], atol=1e-4)


def test_hidden_width_of_the_encoder_can_differ_from_the_tokens():
    wide = encoder(hidden=96)
    assert wide.hidden_dim == 96
    assert wide(images())[0].shape == (2, 96, 4, 4)


def test_weights_are_decided_by_the_seed():
    def build():
        torch.manual_seed(3)
        return [*encoder().state_dict().values(), *decoder().state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(build(), build(), strict=True))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(GaekitError, match=r"image\.stride: 5 does not divide image\.size = 32"):
        ViTEncoder(ViTEncoderConfig(**SMALL), image_size=32, stride=5, channels=8)
    with pytest.raises(GaekitError, match="5 heads cannot share a width of 64"):
        encoder(heads=5)
    with pytest.raises(ValidationError):
        encoder(depth=0)


def test_outputs_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        hidden, moments = encoder()(images())
        image = decoder()(moments)
    assert {hidden.dtype, moments.dtype, image.dtype} == {torch.float32}


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(bf16):
    with fake_cuda(bf16) as inner:
        encode, decode = encoder(), decoder()
        seen = inner(encode.trunk.blocks[0].attn.qkv)
        _, moments = encode(torch.randn(2, 3, 32, 32))
        image = decode(moments)
    assert image.device.type == "cuda"
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert image.dtype == torch.float32


def test_compiles_without_a_graph_break():
    encode, decode = encoder(depth=1), decoder(depth=1)

    def reconstruct(image):
        return decode(encode(image)[1])

    compiled = torch.compile(reconstruct, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), reconstruct(images()))
