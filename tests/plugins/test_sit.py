import pytest
import torch
from fake_cuda import fake_cuda
from parity_helpers import close, load_fixture
from torch import nn

from gaekit.errors import ArtifactError
from gaekit.flow.field import Field
from gaekit.flow.objective import flow_matching_terms
from gaekit.flow.path import get_path
from gaekit.interop.sit import from_published, to_published
from gaekit.testing import check_component
from gaekit.values import GeneratorDraws
from gaekit_denoisers.sit import SiT, SiTConfig
from gaekit_samplers.ode import Euler

SMALL = {"depth": 2, "width": 64, "heads": 4}


def denoiser(classes=10, channels=4, grid=8, **settings):
    return SiT(SiTConfig(**{"use": "sit", **SMALL, **settings}), channels=channels, grid=grid, classes=classes)


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


def published(**settings):
    config, state, given, outputs = load_fixture("sit")
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
def test_published_prediction_is_reproduced(backend):
    network, given, outputs = published()
    for block in network.blocks:
        block.attn.backend = backend
    prediction = network(given["x"], given["t"], given["y"])
    close(prediction.out_BDHW, outputs["model"])
    assert prediction.variance_BDHW is None


@pytest.mark.parametrize("predicts", ["velocity", "noise", "score"])
def test_the_recipe_says_what_published_weights_were_trained_to_predict(predicts):
    """The whole mathematics is on trial in tests/flow; here, that the network's own `predicts` leads to it."""
    network, given, outputs = published(predicts=predicts)
    arguments = [given[f"loss_{name}"] for name in ("t", "x1", "y", "noise")]
    terms = flow_matching_terms(network, get_path("gvp"), *arguments, predicts=network.predicts)
    close(terms[f"{predicts}_mse"], outputs[f"loss_GVP_{predicts}_None"])
    if predicts != "score":
        field = Field(network, get_path("gvp"), None, given["sample_y"], 10, network.predicts)
        sampler = Euler(Euler.Config(use="euler", steps=10, compat="release"))
        sample = sampler.sample(field, given["init"], draws=GeneratorDraws(2))
        close(sample, outputs[f"ode_euler_GVP_{predicts}"])


def test_published_names_go_there_and_back():
    _, state, _, _ = load_fixture("sit")
    back = to_published(from_published({f"module.{key}": value for key, value in state.items()}))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(ArtifactError, match="published SiT: x_embedder"):
        from_published({"bias": torch.zeros(1)})


def test_xl_has_the_published_number_of_parameters():
    """675M in arXiv 2401.08740, with the unused half of the last layer."""
    with torch.device("meta"):
        used, all_channels = (
            SiT(SiTConfig(use="sit", size="XL", learn_sigma=learn), channels=4, grid=32, classes=1000)
            for learn in (False, True)
        )
    count = [sum(p.numel() for p in network.parameters()) for network in (used, all_channels)]
    assert round(count[1] / 1e6, 1) == 675.1
    assert count[1] - count[0] == 16 * (1152 + 1)


def test_the_second_half_of_the_channels_is_unused():
    network, narrow = busy(), denoiser(learn_sigma=False)
    state = dict(network.state_dict())
    for part in ("weight", "bias"):
        value = state[f"final_layer.linear.{part}"]
        first_half = value.unflatten(0, (4, 8))[:, :4].flatten(0, 1)  # a token is (row, column, channel)
        state[f"final_layer.linear.{part}"] = first_half
    narrow.load_state_dict(state)
    torch.testing.assert_close(network(*inputs()).out_BDHW, narrow(*inputs()).out_BDHW)


@pytest.mark.parametrize("settings", [{}, {"learn_sigma": False, "patch": 1}, {"patch": 4}, {"classes": 0}])
def test_every_switch_builds_a_network_whose_weights_all_learn(settings):
    network = busy(**settings)
    x, t, label = inputs()
    out = network(x, t, label.clamp(max=settings.get("classes", 10))).out_BDHW
    assert out.shape == x.shape
    (out - x).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and not p.grad.any()] == []


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_the_contract_is_kept(predicts):
    check_component(SiT, **SMALL, predicts=predicts)


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_on_cuda_in_either_precision(bf16):
    with fake_cuda(bf16) as inner:
        network = denoiser()
        seen = inner(network.blocks[1].attn.qkv)
        out = network(torch.randn(2, 4, 8, 8), torch.rand(2), torch.zeros(2, dtype=torch.long)).out_BDHW
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
