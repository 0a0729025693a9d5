import pytest
import torch
from fake_cuda import fake_cuda
from parity_helpers import close, load_fixture
from torch import nn

from gaekit.errors import ArtifactError, GaekitError
from gaekit.flow.ddpm import Ddpm
from gaekit.interop.dit import from_published, to_published
from gaekit.testing import check_component
from gaekit_denoisers.dit import DiT, DiTConfig

SMALL = {"depth": 2, "width": 64, "heads": 4}


def denoiser(classes=10, channels=4, grid=8, **settings):
    return DiT(DiTConfig(**{"use": "dit", **SMALL, **settings}), channels=channels, grid=grid, classes=classes)


def busy(**settings):
    """With weights everywhere: a fresh one answers zero."""
    torch.manual_seed(0)
    network = denoiser(**settings)
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 8, 8, generator=generator)
    return x, torch.rand(3, generator=generator), torch.tensor([0, 4, 10])


def at_steps(steps):
    """The times of DDPM's integer steps."""
    return torch.tensor([Ddpm().time(int(step)) for step in steps])


def published(**settings):
    config, state, given, outputs = load_fixture("dit")
    network = denoiser(
        config["num_classes"],
        config["in_channels"],
        config["input_size"],
        depth=config["depth"],
        width=config["hidden_size"],
        heads=config["num_heads"],
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
        learn_sigma=config["learn_sigma"],
        **settings,
    )
    network.load_state_dict(from_published(state))
    return network, given, outputs


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_published_noise_and_variance_are_reproduced(backend):
    network, given, outputs = published()
    for block in network.blocks:
        block.attn.backend = backend
    prediction = network(given["x"], at_steps(given["t"]), given["y"])
    close(torch.cat([prediction.out_BDHW, prediction.variance_BDHW], dim=1), outputs["model"])


def test_every_one_of_the_thousand_steps_reaches_the_embedding_unrounded():
    network, _, _ = published()
    seen = []
    network.t_embedder.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    steps = torch.arange(1000)
    x = torch.zeros(1000, 4, 8, 8)
    network.blocks = nn.ModuleList()  # the embedding alone is of interest
    network(x, at_steps(steps), torch.zeros(1000, dtype=torch.long))
    assert torch.equal(seen[0], steps)


def test_the_ends_of_time_are_the_ends_of_the_chain():
    network = busy()
    x, _, label = inputs()
    for end, step in ((0.0, 999), (1.0, 0)):
        expected = network(x, at_steps([step] * 3), label).out_BDHW
        assert torch.equal(network(x, torch.full((3,), end), label).out_BDHW, expected)


def test_published_names_go_there_and_back_from_a_wrapped_checkpoint():
    _, state, _, _ = load_fixture("dit")
    ours = from_published({f"module._orig_mod.{key}": value for key, value in state.items()})
    back = to_published(ours)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_weights_of_another_kind_are_refused_by_what_is_missing():
    _, state, _, _ = load_fixture("lightning_dit")
    with pytest.raises(ArtifactError, match=r"published DiT: blocks\.0\.mlp\.fc1\.weight should be there; it holds bl"):
        from_published(state)
    with pytest.raises(ArtifactError, match="it holds nothing"):
        from_published({})


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_sizes_have_the_published_numbers_of_parameters(size, millions):
    """Table 1 and the model table of arXiv 2212.09748, for 4 channels, 32 x 32 positions and patches of 2."""
    with torch.device("meta"):
        network = DiT(DiTConfig(use="dit", size=size), channels=4, grid=32, classes=1000)
    count = sum(p.numel() for p in network.parameters())
    assert round(count / 1e6) == pytest.approx(millions, abs=1)


def test_xl_is_the_published_network_to_the_last_parameter():
    """By the layers' sizes: DiT-XL/2 has 675,129,632 parameters, 294,912 of them fixed positions."""
    with torch.device("meta"):
        network = DiT(DiTConfig(use="dit", size="XL"), channels=4, grid=32, classes=1000)
    w, out = 1152, 2 * 2 * 8
    block = (3 * w + 1) * w - w + 3 * w + (w + 1) * w + (w + 1) * 4 * w + (4 * w + 1) * w + (w + 1) * 6 * w
    around = (16 + 1) * w + (256 + 1) * w + (w + 1) * w + 1001 * w + (w + 1) * 2 * w + (w + 1) * out
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 28 * block + around
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 256 * w
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 675.1


def test_a_fresh_network_answers_zero_and_learns():
    network = denoiser()
    prediction = network(*inputs())
    assert not prediction.out_BDHW.any()
    assert not prediction.variance_BDHW.any()
    (prediction.out_BDHW - 1).square().mean().backward()
    assert network.final_layer.linear.weight.grad.any()


@pytest.mark.parametrize(
    "settings", [{}, {"learn_sigma": False}, {"patch": 1}, {"patch": 4}, {"mlp_ratio": 2.0}, {"classes": 0}]
)
def test_every_switch_builds_a_network_whose_weights_all_learn(settings):
    network = busy(**settings)
    x, t, label = inputs()
    prediction = network(x, t, label.clamp(max=settings.get("classes", 10)))
    outputs = [out for out in (prediction.out_BDHW, prediction.variance_BDHW) if out is not None]
    assert len(outputs) == (1 if settings.get("learn_sigma") is False else 2)
    assert all(out.shape == x.shape for out in outputs)
    sum((out - x).square().mean() for out in outputs).backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and not p.grad.any()] == []


def test_noise_and_variance_are_their_own_halves():
    network = busy()
    linear = network.final_layer.linear
    with torch.no_grad():
        before = network(*inputs())
        linear.bias.view(2, 2, 8)[:, :, 4:] += 1  # a token is (row, column, channel)
        after = network(*inputs())
    torch.testing.assert_close(after.out_BDHW, before.out_BDHW)
    torch.testing.assert_close(after.variance_BDHW, before.variance_BDHW + 1)


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_the_contract_is_kept(learn_sigma):
    check_component(DiT, **SMALL, learn_sigma=learn_sigma)


def test_checkpointing_gives_the_same_gradients():
    network = busy()

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


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(GaekitError, match=r"diffusion\.denoiser\.patch: 3 does not divide the latent grid of 8"):
        denoiser(patch=3)


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(bf16):
    with fake_cuda(bf16) as inner:
        network = denoiser()
        seen = inner(network.blocks[1].attn.qkv)
        prediction = network(torch.randn(2, 4, 8, 8), torch.rand(2), torch.zeros(2, dtype=torch.long))
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    for out in (prediction.out_BDHW, prediction.variance_BDHW):
        assert out.device.type == "cuda"
        assert out.dtype == torch.float32


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiles_without_a_graph_break(checkpointing):
    network = busy(depth=1)
    network.checkpointing = checkpointing
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    prediction = compiled(*inputs(), taps=("block.0",))
    expected = network(*inputs())
    torch.testing.assert_close(prediction.out_BDHW, expected.out_BDHW)
    torch.testing.assert_close(prediction.variance_BDHW, expected.variance_BDHW)
    assert list(prediction.features) == ["block.0"]
