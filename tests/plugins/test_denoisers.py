"""What every denoiser does alike; their published weights and their own switches are in files of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoiser_helpers import DENOISERS, Small, answers
from fake_cuda import fake_cuda

from gaekit.errors import GaekitError
from gaekit.testing import check_component

PATHS: list[tuple[str, dict[str, Any]]] = [
    ("dit", {}),
    ("sit", {}),
    ("lightning_dit", {"qk_norm": True}),
    ("dit_dh", {}),
    ("dit_dh", {"qk_norm": True}),
]
"""Each way through a network that a device, a compiler or checkpointing could take amiss."""
LIGHTNING: list[dict[str, Any]] = [
    {"qk_norm": True},
    {"mlp": "mlp"},
    {"norm": "layer"},
    {"norm": "layer", "qk_norm": True},
    {"rope": False},
    {"wo_shift": True},
    {"absolute_positions": False},
    {"patch": 2},
]
SWITCHES: dict[str, list[dict[str, Any]]] = {
    "dit": [{}, {"learn_sigma": False}, {"patch": 1}, {"patch": 4}, {"mlp_ratio": 2.0}, {"classes": 0}],
    "sit": [{}, {"learn_sigma": False, "patch": 1}, {"patch": 4}, {"classes": 0}],
    "lightning_dit": LIGHTNING,
    "dit_dh": [
        *LIGHTNING,
        {"decoder_width": 32},
        {"decoder_depth": 2},
        {"convention": "noise_at_one"},
        {"classes": 0},
    ],
}


@pytest.fixture(params=DENOISERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small(name: str) -> Small:
    return DENOISERS[name]


def test_a_fresh_network_answers_zero_and_learns(small: Small) -> None:
    network = small.build()
    prediction = network(*small.inputs())
    assert not any(out.any() for out in answers(prediction))
    (prediction.out_BDHW - 1).square().mean().backward()
    assert network.final_layer.linear.weight.grad.any()


@pytest.mark.parametrize(
    ("name", "settings"),
    [pytest.param(name, settings, id=f"{name}-{settings}") for name, each in SWITCHES.items() for settings in each],
)
def test_every_switch_builds_a_network_whose_weights_all_learn(name: str, settings: dict[str, Any]) -> None:
    small = DENOISERS[name]
    network = small.busy(**settings)
    x, t, label = small.inputs()
    prediction = network(x, t, label.clamp(max=settings.get("classes", 10)))
    assert all(out.shape == x.shape for out in answers(prediction))
    torch.stack([(out - x).square().mean() for out in answers(prediction)]).sum().backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and not p.grad.any()] == []
    unswitched = small.busy()(x, t, label).out_BDHW
    assert torch.allclose(prediction.out_BDHW, unswitched, atol=1e-4) is not bool(settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dit", {"learn_sigma": True}),
        ("dit", {"learn_sigma": False}),
        ("sit", {"predicts": "velocity"}),
        ("sit", {"predicts": "data"}),
        ("lightning_dit", {}),
        ("dit_dh", {"convention": "data_at_one"}),
        ("dit_dh", {"convention": "noise_at_one"}),
    ],
)
def test_the_contract_is_kept(name: str, settings: dict[str, Any]) -> None:
    check_component(DENOISERS[name].kind, **DENOISERS[name].settings, **settings)


def test_time_and_label_decide_the_answer_and_the_null_label_is_one_of_its_own(small: Small) -> None:
    network = small.busy()
    x, t, label = small.inputs()
    out = network(x, t, label).out_BDHW
    assert not torch.allclose(out, network(x, 1 - t, label).out_BDHW, atol=1e-4)
    assert not torch.allclose(out[2], network(x, t, torch.tensor([0, 4, 9])).out_BDHW[2], atol=1e-4)


def test_unconditional_network_takes_label_zero(small: Small) -> None:
    x, t, _ = small.inputs()
    network = small.busy(classes=0)
    assert network(x, t, torch.zeros(3, dtype=torch.long)).out_BDHW.any()
    assert network.y_embedder.embedding_table.weight.shape == (1, small.settings["width"])


def test_taps_return_the_hidden_states_asked_for(small: Small) -> None:
    network, given = small.busy(), small.inputs()
    last = len(network.blocks) - 1
    seen: list[torch.Tensor] = []
    network.blocks[last].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    prediction = network(*given, taps=(f"block.{last}",))
    assert list(prediction.features) == [f"block.{last}"]
    assert prediction.features[f"block.{last}"] is seen[0]
    assert seen[0].shape == (3, 16, 64)
    assert network(*given).features == {}
    missing = rf"no hidden state block\.{last + 1}; this denoiser has block\.0 to block\.{last}"
    with pytest.raises(GaekitError, match=missing):
        network(*given, taps=(f"block.{last + 1}",))


@pytest.mark.parametrize(("name", "settings"), PATHS)
def test_checkpointing_gives_the_same_gradients(name: str, settings: dict[str, Any]) -> None:
    small = DENOISERS[name]
    network = small.busy(**settings)

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        network(*small.inputs()).out_BDHW.square().sum().backward()
        return [p.grad for p in network.parameters() if p.requires_grad]

    expected = gradients()
    calls: list[int] = []
    for block in (network.blocks[0], network.blocks[-1]):
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    network.checkpointing = True
    assert all(torch.equal(a, b) for a, b in zip(gradients(), expected, strict=True))
    assert len(calls) == 4  # each forward, and again in the backward pass


def test_weights_are_decided_by_the_seed(small: Small) -> None:
    def build() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(small.build().state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(build(), build(), strict=True))


def test_a_patch_that_does_not_divide_the_grid_is_refused(small: Small) -> None:
    message = rf"diffusion\.denoiser\.patch: 3 does not divide the latent grid of {small.grid}"
    with pytest.raises(GaekitError, match=message):
        small.build(patch=3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dit", {"heads": 5}),
        ("sit", {"heads": 5}),
        ("lightning_dit", {"heads": 5}),
        ("dit_dh", {"decoder_heads": 5, "rope": False}),
    ],
)
def test_heads_that_do_not_divide_the_width_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(GaekitError, match="5 heads cannot share a width of 64"):
        DENOISERS[name].build(**settings)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("name", "settings"), PATHS)
def test_runs_on_cuda_in_either_precision(name: str, settings: dict[str, Any], bf16: bool) -> None:
    small = DENOISERS[name]
    with fake_cuda(bf16) as inner:
        network = small.build(**settings)
        seen = inner(network.blocks[-1].attn.qkv)
        x = torch.randn(2, small.channels, small.grid, small.grid)
        prediction = network(x, torch.rand(2), torch.zeros(2, dtype=torch.long))
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert {(out.device.type, out.dtype) for out in answers(prediction)} == {("cuda", torch.float32)}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "settings"), PATHS)
def test_compiles_without_a_graph_break(name: str, settings: dict[str, Any], checkpointing: bool) -> None:
    torch.compiler.reset()  # it gives up on code that it has compiled for eight other networks
    small = DENOISERS[name]
    network = small.busy(depth=1, **settings)
    network.checkpointing = checkpointing
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    prediction = compiled(*small.inputs(), taps=("block.0",))
    expected = answers(network(*small.inputs()))
    for out, right in zip(answers(prediction), expected, strict=True):
        torch.testing.assert_close(out, right)
    assert list(prediction.features) == ["block.0"]
