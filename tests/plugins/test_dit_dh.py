import pytest
import torch
from denoiser_helpers import DENOISERS, count
from parity_helpers import close, load_fixture

from gaekit.errors import ArtifactError, GaekitError
from gaekit.flow.field import Field
from gaekit.flow.path import get_path
from gaekit.interop.dit_dh import PUBLISHED, from_published, to_published

SIZES = {"depth": "depth", "width": "hidden_size", "heads": "num_heads"}
"""Our names and the published ones, which hold a pair (encoder, head)."""
SMALL = DENOISERS["dit_dh"]
denoiser, busy, inputs = SMALL.build, SMALL.busy, SMALL.inputs


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
    with pytest.raises(ArtifactError, match=r"published DiT-DH: t_embedder\.W, s_embedder\.proj\.weight should be"):
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
    network = SMALL.sized("XL", channels=768, grid=16)
    assert round(count(network) / 1e6) == 839
    fixed = {name: p.numel() for name, p in network.named_parameters() if not p.requires_grad}
    assert fixed == {"pos_embed": 256 * 1152, "t_embedder.frequencies": 256}


@pytest.mark.parametrize(("size", "depth", "width"), [("S", 12, 384), ("B", 12, 768), ("L", 24, 1024)])
def test_every_size_has_the_same_head(size, depth, width):
    network = SMALL.sized(size, channels=768, grid=16)
    assert [block.attn.qkv.in_features for block in network.blocks] == [width] * depth + [2048] * 2
    assert [block.attn.heads for block in network.blocks[-2:]] == [16, 16]


def test_a_fresh_networks_frequencies_are_drawn():
    assert denoiser().t_embedder.frequencies.std() == pytest.approx(1, abs=0.2)


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
