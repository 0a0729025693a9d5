"""Repeated blocks, recomputed or compiled one by one: the same numbers, less memory, one compilation for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from gaekit.nn.regions import Regional, compile_regions, set_checkpointing
from gaekit_aligners.semantic_teacher import SemanticTeacher
from gaekit_autoencoders.conv import ConvDecoder, ConvDecoderConfig, ConvEncoder, ConvEncoderConfig
from gaekit_autoencoders.vit import ViTDecoder, ViTDecoderConfig, ViTEncoder, ViTEncoderConfig
from gaekit_denoisers.lightning_dit import LightningDiT, LightningDiTConfig

Run = Callable[[], Tensor]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def vit_encoder(depth: int = 3) -> tuple[nn.Module, Run]:
    config = ViTEncoderConfig(use="vit", depth=depth, width=32, heads=2, rope=True)
    network = ViTEncoder(config, image_size=32, stride=4, channels=4)
    return network, lambda: network(noise(2, 3, 32, 32))[1].square().mean()


def vit_decoder(depth: int = 3) -> tuple[nn.Module, Run]:
    config = ViTDecoderConfig(use="vit", depth=depth, width=32, heads=2)
    network = ViTDecoder(config, latent_dim=4, grid=8, stride=4)
    return network, lambda: network(noise(2, 4, 8, 8)).square().mean()


def conv_encoder(depth: int = 2) -> tuple[nn.Module, Run]:
    config = ConvEncoderConfig(use="conv", ch=32, ch_mult=(1,) * depth, num_res_blocks=2, dropout=0.1)
    network = ConvEncoder(config, image_size=16, stride=2 ** (depth - 1), channels=4)
    return network, lambda: network(noise(2, 3, 16, 16))[1].square().mean()


def conv_decoder(depth: int = 2) -> tuple[nn.Module, Run]:
    config = ConvDecoderConfig(use="conv", ch=32, ch_mult=(1,) * depth, num_res_blocks=2, dropout=0.1)
    network = ConvDecoder(config, latent_dim=4, grid=8, stride=2 ** (depth - 1))
    return network, lambda: network(noise(2, 4, 8, 8)).square().mean()


def semantic_teacher(depth: int = 3) -> tuple[nn.Module, Run]:
    network = SemanticTeacher(32, 4, 8, window=1, depth=depth, head_dim=16, mlp_width=128)
    return network, lambda: network(noise(2, 32, 8, 8))[0].square().mean()


def lightning_dit(depth: int = 3) -> tuple[nn.Module, Run]:
    config = LightningDiTConfig(use="lightning_dit", depth=depth, width=32, heads=2)
    network = LightningDiT(config, channels=4, grid=8, classes=3)
    for name, parameter in network.named_parameters():  # a fresh one answers zero
        if parameter.requires_grad and "norm" not in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return (
        network,
        lambda: network(noise(2, 4, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([0, 3])).out_BDHW.square().mean(),
    )


# Dynamo looks at `.grad` of what flows into a block and hides the warning, which being an error cannot be hidden.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

NETWORKS = (vit_encoder, vit_decoder, conv_encoder, conv_decoder, semantic_teacher, lightning_dit)
TRANSFORMERS = (vit_encoder, vit_decoder, semantic_teacher, lightning_dit)


def gradients(network: nn.Module, run: Run) -> dict[str, Tensor]:
    network.zero_grad()
    torch.manual_seed(1)  # of dropout
    torch.autograd.backward(run())
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def kept(network: nn.Module, run: Run) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters aside, with what recomputation starts from."""
    storages: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = Counter[str]()

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs["bytes"] += sum(a.untyped_storage().nbytes() for a in args if isinstance(a, Tensor))

    parts = [part for part in network.modules() if isinstance(part, nn.ModuleList)]
    checkpointed = any(getattr(part, "checkpointing", False) for part in network.modules())
    handles = [block.register_forward_pre_hook(count) for part in parts for block in part if checkpointed]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = run()
    assert loss.requires_grad
    for handle in handles:
        handle.remove()
    return sum(storages.values()) + inputs["bytes"]


@pytest.mark.parametrize("make", NETWORKS)
def test_recomputed_blocks_give_the_same_gradients_bit_for_bit(make: Callable[[], tuple[nn.Module, Run]]) -> None:
    torch.manual_seed(0)
    network, run = make()
    plain = gradients(network, run)
    assert set_checkpointing(network)
    recomputed = gradients(network, run)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in plain.items())
    assert any(gradient.any() for gradient in plain.values())


@pytest.mark.parametrize("make", NETWORKS)
def test_recomputed_blocks_keep_less_than_half_of_the_activations(
    make: Callable[[], tuple[nn.Module, Run]],
) -> None:
    torch.manual_seed(0)
    network, run = make()
    plain = kept(network, run)
    set_checkpointing(network)
    assert kept(network, run) < 0.5 * plain


def test_nothing_is_recomputed_where_nothing_trains() -> None:
    network, run = vit_encoder()
    set_checkpointing(network)
    calls = Counter[str]()
    network.get_submodule("trunk.blocks.0").register_forward_hook(lambda *_: calls.update(["block"]))
    with torch.no_grad():
        run()
    torch.autograd.backward(network.eval() and run())
    assert calls["block"] == 2


def test_a_network_without_blocks_says_so() -> None:
    assert not set_checkpointing(nn.Linear(2, 2))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize("make", TRANSFORMERS)
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_graphs_do_not_grow_with_depth(make: Callable[[int], tuple[nn.Module, Run]]) -> None:
    graphs = []
    for depth in (2, 5):
        torch.manual_seed(0)
        network, run = make(depth)
        plain = run().detach(), gradients(network, run)
        torch._dynamo.reset()
        counters.clear()
        assert compile_regions(network, backend="aot_eager") == depth
        value, compiled = run().detach(), gradients(network, run)
        torch.testing.assert_close(value, plain[0], rtol=1e-5, atol=1e-6)
        for name, gradient in plain[1].items():
            torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
        assert not counters["graph_break"]
    assert graphs == [1, 1]


@pytest.mark.usefixtures("fresh_compiler")
def test_recomputed_blocks_compile_too() -> None:
    network, run = lightning_dit()
    plain = gradients(network, run)
    set_checkpointing(network)
    compile_regions(network, backend="aot_eager")
    for name, gradient in gradients(network, run).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-5)
    assert not counters["graph_break"]


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x))


@pytest.mark.usefixtures("fresh_compiler")
def test_a_network_without_regions_is_compiled_whole() -> None:
    network = Wrapped(nn.Linear(3, 3))  # a class of one's own: torch 2.9 compiles no nn.Sequential
    assert not any(isinstance(part, Regional) for part in network.modules())
    plain = network(noise(2, 3))
    assert compile_regions(network, backend="aot_eager") == 0
    torch.testing.assert_close(network(noise(2, 3)), plain)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("fresh_compiler")
def test_gradients_may_be_asked_twice_of_compiled_blocks() -> None:
    """As adaptive weights do once the adversary joins: a pass before them must not have given buffers away for good."""
    network, run = vit_decoder(2)
    compile_regions(network, backend="aot_eager")
    gradients(network, run)
    loss, first = run(), network.get_parameter("z_proj.weight")
    (once,) = torch.autograd.grad(loss, first, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, first)
    assert torch.equal(once, twice)
