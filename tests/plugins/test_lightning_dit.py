import pytest
import torch
from fake_cuda import fake_cuda
from parity_helpers import close, load_fixture
from torch import nn

from gaekit.errors import GaekitError
from gaekit.interop.gae import denoiser_from_published
from gaekit_denoisers.lightning_dit import LightningDiT, LightningDiTConfig

SMALL = {"use": "lightning_dit", "depth": 2, "width": 64, "heads": 4}


def denoiser(classes=10, grid=4, **settings):
    return LightningDiT(LightningDiTConfig(**{**SMALL, **settings}), channels=8, grid=grid, classes=classes)


def busy(**settings):
    """With weights everywhere: a fresh one answers zero."""
    torch.manual_seed(0)
    network = denoiser(**settings)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.startswith("blocks.0.norm"):
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs(grid=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 8, grid, grid, generator=generator)
    return x, torch.rand(3, generator=generator), torch.tensor([0, 4, 10])


@pytest.mark.parametrize("name", ["lightning_dit", "lightning_dit_qknorm"])
@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_published_velocity_is_reproduced(name, backend):
    config, state, given, outputs = load_fixture(name)
    network = denoiser(qk_norm=config["use_qknorm"])
    network.load_state_dict(denoiser_from_published(state))
    for block in network.blocks:
        block.attn.backend = backend
    close(network(given["x"], given["t"], given["y"]).out_BDHW, outputs["velocity"])


def test_xl_has_the_published_number_of_parameters():
    with torch.device("meta"):
        config = LightningDiTConfig(use="lightning_dit", size="XL")
        network = LightningDiT(config, channels=32, grid=16, classes=1000)
    counts = {
        fixed: sum(p.numel() for p in network.parameters() if p.requires_grad != fixed) for fixed in (True, False)
    }
    assert round((counts[True] + counts[False]) / 1e6, 1) == 675.3
    assert counts[True] == 256 * 1152


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("1.0B", 1003), ("1.6B", 1587)])
def test_every_size_builds_without_memory(size, millions):
    with torch.device("meta"):
        network = LightningDiT(LightningDiTConfig(use="lightning_dit", size=size), channels=32, grid=16, classes=1000)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_a_fresh_network_answers_zero_and_learns():
    network = denoiser()
    out = network(*inputs()).out_BDHW
    assert not out.any()
    (out - 1).square().mean().backward()
    assert network.final_layer.linear.weight.grad.any()


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
    ],
)
def test_every_switch_builds_a_network_whose_weights_all_learn(settings):
    network = busy(**settings)
    out = network(*inputs()).out_BDHW
    assert out.shape == (3, 8, 4, 4)
    (out - inputs()[0]).square().mean().backward()
    dead = [n for n, p in network.named_parameters() if p.requires_grad and not p.grad.any()]
    assert dead == []
    assert not torch.allclose(out, busy()(*inputs()).out_BDHW, atol=1e-4)


def test_without_positions_it_does_not_know_where_a_token_is():
    x, t, label = inputs()
    blind, seeing = busy(rope=False, absolute_positions=False), busy(rope=True, absolute_positions=False)
    for network, equal in ((blind, True), (seeing, False)):
        moved = network(x.flip(2, 3), t, label).out_BDHW.flip(2, 3)
        assert torch.allclose(moved, network(x, t, label).out_BDHW, atol=1e-5) is equal


def test_patches_come_back_where_they_were():
    network = busy(patch=2, depth=1)
    network.blocks[0].attn.proj.weight.data.zero_()  # no exchange between tokens
    x, t, label = inputs()
    moved = x.clone()
    moved[:, :, :2, 2:] += 1
    changed = (network(x, t, label).out_BDHW - network(moved, t, label).out_BDHW).abs().amax((0, 1)) > 1e-7
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, 2:] = True
    assert torch.equal(changed, expected)


def test_time_and_label_decide_the_answer_and_the_null_label_is_one_of_its_own():
    network = busy()
    x, t, label = inputs()
    out = network(x, t, label).out_BDHW
    assert not torch.allclose(out, network(x, 1 - t, label).out_BDHW, atol=1e-4)
    assert not torch.allclose(out[2], network(x, t, torch.tensor([0, 4, 9])).out_BDHW[2], atol=1e-4)


def test_unconditional_network_takes_label_zero():
    x, t, _ = inputs()
    network = busy(classes=0)
    assert network(x, t, torch.zeros(3, dtype=torch.long)).out_BDHW.any()
    assert network.y_embedder.embedding_table.weight.shape == (1, 64)


def test_taps_return_the_hidden_states_asked_for():
    network = busy()
    seen = []
    network.blocks[1].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    prediction = network(*inputs(), taps=("block.1",))
    assert list(prediction.features) == ["block.1"]
    assert prediction.features["block.1"] is seen[0]
    assert seen[0].shape == (3, 16, 64)
    assert network(*inputs()).features == {}
    with pytest.raises(GaekitError, match=r"no hidden state block\.2; this denoiser has block\.0 to block\.1"):
        network(*inputs(), taps=("block.2",))


def test_checkpointing_gives_the_same_gradients():
    network = busy(qk_norm=True)

    def gradients():
        network.zero_grad()
        network(*inputs()).out_BDHW.square().sum().backward()
        return [p.grad for p in network.parameters() if p.requires_grad]

    expected = gradients()
    calls = []
    network.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    network.checkpointing = True
    assert all(torch.equal(a, b) for a, b in zip(gradients(), expected, strict=True))
    assert len(calls) == 2  # forward, and again in the backward pass


def test_weights_are_decided_by_the_seed():
    def build():
        torch.manual_seed(3)
        return denoiser().state_dict().values()

    assert all(torch.equal(a, b) for a, b in zip(build(), build(), strict=True))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(GaekitError, match=r"diffusion\.denoiser\.patch: 3 does not divide the latent grid of 4"):
        denoiser(patch=3)
    with pytest.raises(GaekitError, match="5 heads cannot share a width of 64"):
        denoiser(heads=5)


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(bf16):
    with fake_cuda(bf16) as inner:
        network = denoiser(qk_norm=True)
        seen = inner(network.blocks[1].attn.qkv)
        out = network(torch.randn(2, 8, 4, 4), torch.rand(2), torch.zeros(2, dtype=torch.long)).out_BDHW
    assert out.device.type == "cuda"
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert out.dtype == torch.float32


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiles_without_a_graph_break(checkpointing):
    network = busy(depth=1, qk_norm=True)
    network.checkpointing = checkpointing
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    prediction = compiled(*inputs(), taps=("block.0",))
    torch.testing.assert_close(prediction.out_BDHW, network(*inputs()).out_BDHW)
    assert list(prediction.features) == ["block.0"]
