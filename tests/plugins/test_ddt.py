import pytest
import torch
from fake_cuda import fake_cuda
from parity_helpers import close, load_fixture
from torch import nn

from gaekit.errors import ArtifactError, GaekitError
from gaekit.flow.field import Field
from gaekit.flow.path import get_path
from gaekit.interop.ddt import PUBLISHED, from_published, to_published
from gaekit.testing import check_component
from gaekit_denoisers.ddt import DDT, DDTConfig

SIZES = {"depth": "depth", "width": "hidden_size", "heads": "num_heads"}
"""Our names and the published ones, which hold a pair (encoder, head)."""
SMALL = {"depth": 2, "width": 32, "heads": 4, "decoder_depth": 1, "decoder_width": 64, "decoder_heads": 4}


def denoiser(classes=10, channels=8, grid=4, **settings):
    return DDT(DDTConfig(**{"use": "ddt", **SMALL, **settings}), channels=channels, grid=grid, classes=classes)


def busy(**settings):
    """With weights everywhere: a fresh one answers zero."""
    torch.manual_seed(0)
    network = denoiser(**settings)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.startswith("blocks.0.norm"):
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 8, 4, 4, generator=generator)
    return x, torch.rand(3, generator=generator), torch.tensor([0, 4, 10])


def published():
    config, state, given, outputs = load_fixture("ddt")
    network = denoiser(
        config["num_classes"],
        config["in_channels"],
        config["input_size"],
        **{name: config[key][0] for name, key in SIZES.items()},
        **{f"decoder_{name}": config[key][1] for name, key in SIZES.items()},
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
        mlp="swiglu" if config["use_swiglu"] else "mlp",
        norm="rms" if config["use_rmsnorm"] else "layer",
        qk_norm=config["use_qknorm"],
        rope=config["use_rope"],
        absolute_positions=config["use_pos_embed"],
        wo_shift=config["wo_shift"],
        convention=PUBLISHED,
    )
    network.load_state_dict(from_published(state))
    return network, given, outputs


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_published_velocity_is_reproduced_in_gaekits_convention(backend):
    """RAE: x = (1 - s) data + s noise and v = noise - data at s = 1 - t, so that v(s) = -v(t)."""
    network, given, outputs = published()
    for block in network.blocks:
        block.attn.backend = backend
    close(-network(given["x"], 1 - given["t"], given["y"]).out_BDHW, outputs["velocity"])


def test_a_published_network_leads_a_field_from_noise_to_data():
    network, given, outputs = published()
    x, s, v = given["x"], given["t"].reshape(-1, 1, 1, 1), outputs["velocity"]
    field = Field(network, get_path("linear"), None, given["y"], 10, network.predicts)
    estimate = field.evaluate(x, 1 - given["t"])
    close(estimate.data, x - s * v)
    close(estimate.noise, x + (1 - s) * v)


def test_published_names_go_there_and_back():
    _, state, _, _ = load_fixture("ddt")
    back = to_published(from_published({f"_orig_mod.{key}": value for key, value in state.items()}))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_weights_of_another_kind_are_refused_by_what_is_missing():
    _, state, _, _ = load_fixture("lightning_dit")
    with pytest.raises(ArtifactError, match=r"published DDT: t_embedder\.W, s_embedder\.proj\.weight should be there"):
        from_published(state)


def test_a_network_trained_here_is_exported_in_the_published_convention():
    ours = busy()
    theirs = denoiser(convention=PUBLISHED)
    theirs.load_state_dict(from_published(to_published(ours.state_dict(), convention="data_at_one")))
    close(theirs(*inputs()).out_BDHW, ours(*inputs()).out_BDHW)
    unchanged = denoiser(convention=PUBLISHED)
    unchanged.load_state_dict(ours.state_dict())
    assert not torch.allclose(unchanged(*inputs()).out_BDHW, ours(*inputs()).out_BDHW, atol=1e-3)


def test_the_conventions_are_mirror_images():
    ours, theirs = busy(), busy(convention="noise_at_one")
    x, t, label = inputs()
    t = (t * 64).round() / 64  # so that 1 - t is exact
    assert torch.equal(theirs(x, t, label).out_BDHW, -ours(x, 1 - t, label).out_BDHW)


def test_xl_has_the_published_number_of_parameters():
    """DiT-DH-XL has 839M on 768 channels of 16 x 16 (arXiv 2510.11690)."""
    with torch.device("meta"):
        network = DDT(DDTConfig(use="ddt", size="XL"), channels=768, grid=16, classes=1000)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == 839
    fixed = {name: p.numel() for name, p in network.named_parameters() if not p.requires_grad}
    assert fixed == {"pos_embed": 256 * 1152, "t_embedder.frequencies": 256}


@pytest.mark.parametrize(("size", "depth", "width"), [("S", 12, 384), ("B", 12, 768), ("L", 24, 1024)])
def test_every_size_has_the_same_head(size, depth, width):
    with torch.device("meta"):
        network = DDT(DDTConfig(use="ddt", size=size), channels=768, grid=16, classes=1000)
    assert [block.attn.qkv.in_features for block in network.blocks] == [width] * depth + [2048] * 2
    assert [block.attn.heads for block in network.blocks[-2:]] == [16, 16]


def test_a_fresh_network_answers_zero_and_learns():
    network = denoiser()
    out = network(*inputs()).out_BDHW
    assert not out.any()
    (out - 1).square().mean().backward()
    assert network.final_layer.linear.weight.grad.any()
    assert network.t_embedder.frequencies.std() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    "settings",
    [
        {"qk_norm": True},
        {"mlp": "mlp"},
        {"norm": "layer"},
        {"norm": "layer", "qk_norm": True},
        {"rope": False},
        {"wo_shift": True},
        {"absolute_positions": False},
        {"patch": 2},
        {"decoder_width": 32},
        {"decoder_depth": 2},
        {"convention": "noise_at_one"},
        {"classes": 0},
    ],
)
def test_every_switch_builds_a_network_whose_weights_all_learn(settings):
    network = busy(**settings)
    x, t, label = inputs()
    out = network(x, t, label.clamp(max=settings.get("classes", 10))).out_BDHW
    assert out.shape == x.shape
    (out - x).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and not p.grad.any()] == []
    assert not torch.allclose(out, busy()(*inputs()).out_BDHW, atol=1e-4)


def test_of_equal_widths_nothing_is_projected():
    assert not any(key.startswith("s_projector") for key in denoiser(decoder_width=32).state_dict())


def test_taps_number_the_encoder_and_then_the_decoder():
    features = busy()(*inputs(), taps=("block.0", "block.2")).features
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "block.0": (3, 16, 32),
        "block.2": (3, 16, 64),
    }
    with pytest.raises(GaekitError, match=r"no hidden state block\.3; this denoiser has block\.0 to block\.2"):
        busy()(*inputs(), taps=("block.3",))


@pytest.mark.parametrize("convention", ["data_at_one", "noise_at_one"])
def test_the_contract_is_kept(convention):
    check_component(DDT, **SMALL, convention=convention)


def test_checkpointing_gives_the_same_gradients():
    network = busy()

    def gradients():
        network.zero_grad()
        network(*inputs()).out_BDHW.square().sum().backward()
        return [p.grad for p in network.parameters() if p.requires_grad]

    expected = gradients()
    calls = []
    for block in (network.blocks[0], network.blocks[-1]):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    network.checkpointing = True
    assert all(torch.equal(a, b) for a, b in zip(gradients(), expected, strict=True))
    assert len(calls) == 4  # each forward, and again in the backward pass


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(GaekitError, match=r"diffusion\.denoiser\.patch: 3 does not divide the latent grid of 4"):
        denoiser(patch=3)
    with pytest.raises(GaekitError, match="5 heads cannot share a width of 64"):
        denoiser(decoder_heads=5, rope=False)


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(bf16):
    with fake_cuda(bf16) as inner:
        network = denoiser(qk_norm=True)
        seen = inner(network.blocks[2].attn.qkv)
        out = network(torch.randn(2, 8, 4, 4), torch.rand(2), torch.zeros(2, dtype=torch.long)).out_BDHW
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert (out.device.type, out.dtype) == ("cuda", torch.float32)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiles_without_a_graph_break(checkpointing):
    network = busy(depth=1)
    network.checkpointing = checkpointing
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    prediction = compiled(*inputs(), taps=("block.0",))
    torch.testing.assert_close(prediction.out_BDHW, network(*inputs()).out_BDHW)
    assert list(prediction.features) == ["block.0"]
