"""FLOP are those of closed forms, whatever computes a network, and to count them changes nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.api import Denoiser
from gaekit.nn.attention import Attention, use_backend
from gaekit.nn.regions import compile_regions, run_block, set_checkpointing
from gaekit.plugins import build, load_plugins
from gaekit.train.flops import FlopMeter

BATCH, SIDE, PATCH, CHANNELS, WIDTH, DEPTH, CLASSES = 3, 8, 2, 4, 96, 2, 5
TOKENS = (SIDE // PATCH) ** 2


@pytest.fixture(autouse=True)
def nothing_counted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaekit.train.flops._COUNTED", {})


def dit() -> Denoiser:
    registry = load_plugins()
    config = registry.find("denoiser", "dit").Config(use="dit", depth=DEPTH, width=WIDTH, heads=3, patch=PATCH)
    return build(Denoiser, config, registry, channels=CHANNELS, grid=SIDE, classes=CLASSES)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(BATCH, CHANNELS, SIDE, SIDE), torch.rand(BATCH), torch.zeros(BATCH, dtype=torch.int64)


def forward_of_dit() -> tuple[int, int]:
    """(FLOP of a forward pass, those of layers whose inputs need no gradient), counted by hand: two for each weight and
    token (or image), and for each two tokens of a head's products."""
    token, image = BATCH * TOKENS, BATCH
    blocks = DEPTH * (2 * 12 * WIDTH**2 * token + 4 * BATCH * TOKENS**2 * WIDTH + 2 * 6 * WIDTH**2 * image)
    first = 2 * PATCH**2 * CHANNELS * WIDTH * token + 2 * 256 * WIDTH * image
    outputs = PATCH**2 * CHANNELS * 2  # the variance too
    rest = 2 * WIDTH**2 * image + 2 * 2 * WIDTH**2 * image + 2 * WIDTH * outputs * token
    return blocks + first + rest, first


def counted(network: nn.Module, *args: Tensor, grad: bool = True) -> int:
    meter = FlopMeter()
    meter.watch(network)
    with torch.set_grad_enabled(grad):
        network(*args)
    assert not meter.uncounted
    return meter.flop()


def test_a_denoiser_takes_what_its_formula_says() -> None:
    forward, first = forward_of_dit()
    network = dit()
    assert counted(copy.deepcopy(network).eval(), *inputs(), grad=False) == forward
    assert counted(copy.deepcopy(network).train(), *inputs()) == 3 * forward - first
    assert counted(copy.deepcopy(network).requires_grad_(False), *inputs()) == forward


WIDTH_SMALL, LENGTH = 16, 10


class Block(nn.Module):
    """Attention and a layer, as a network whose blocks may be compiled or computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(WIDTH_SMALL, 2, tokens=LENGTH) for _ in range(2)])
        self.checkpointing = False

    def regions(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x_BNW: Tensor) -> Tensor:
        for block in self.blocks:
            x_BNW = run_block(block, x_BNW, checkpointing=self.checkpointing)
        return x_BNW


def of_blocks(batch: int) -> int:
    """Forward and backward, from an input that needs no gradient."""
    projections = 2 * 4 * WIDTH_SMALL**2 * batch * LENGTH
    products = 4 * batch * LENGTH**2 * WIDTH_SMALL
    first = 2 * 3 * WIDTH_SMALL**2 * batch * LENGTH
    return 2 * 3 * (projections + products) - first


@pytest.mark.parametrize("backend", ["math", "sdpa", "xformers"])
def test_attention_counts_the_same_whatever_computes_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaekit.nn.attention._xformers", lambda q, k, v: q + k + v)  # a kernel that torch cannot see
    network = Block()
    use_backend(network, backend)  # type: ignore[arg-type]
    assert counted(network, torch.rand(2, LENGTH, WIDTH_SMALL)) == of_blocks(2)


def test_what_is_computed_again_counts_once() -> None:
    network = Block()
    assert set_checkpointing(network)
    assert counted(network, torch.rand(2, LENGTH, WIDTH_SMALL)) == of_blocks(2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo's own
@pytest.mark.parametrize("whole", [False, True])
def test_a_compiled_network_is_counted_and_stays_compiled(whole: bool) -> None:
    made: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        made.append(graph)
        return graph.forward

    def compiled() -> Block:
        torch._dynamo.reset()
        made.clear()
        network = Block()
        if whole:
            network.compile(backend=backend)
        else:
            compile_regions(network, backend)
        return network

    x = torch.rand(2, LENGTH, WIDTH_SMALL)
    compiled()(x)
    without = len(made)
    assert counted(compiled(), x) == of_blocks(2)
    assert len(made) == without > 0  # no part of it fell out of its graph
    torch._dynamo.reset()


def test_weights_that_are_constants_get_no_gradient() -> None:
    """As a critic's while the generator learns: the gradient passes through to the image alone."""
    critic, meter = nn.Linear(8, 4), FlopMeter()
    meter.watch(critic)
    constants = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    torch.func.functional_call(critic, constants, (torch.rand(5, 8, requires_grad=True),))
    assert meter.flop() == 2 * (2 * 5 * 8 * 4)
    critic(torch.rand(5, 8))
    assert meter.flop() == 2 * (2 * 5 * 8 * 4) + 2 * (2 * 5 * 8 * 4)


class Parts(nn.Module):
    """What an aligner is: called by methods of its own, not by `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 4), nn.ReLU())])

    def losses(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_module_without_a_forward_is_counted_by_its_parts() -> None:
    parts, meter = Parts(), FlopMeter()
    meter.watch(parts, "aligner")
    meter.watch(parts, "aligner")  # a second time changes nothing
    with torch.no_grad():
        parts.losses(torch.rand(3, 8))
    assert meter.by_network() == {"aligner": 2 * 3 * 8 * 8 + 2 * 3 * 8 * 4}


class Moving(nn.Module):
    """A network with state that its forward pass changes, a cache that it fills, and noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.table: Tensor | None = None
        self.held = (nn.Linear(6, 6),)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(6.0)
        return self.drop(self.norm(self.layer(x) + self.held[0](x))) * self.table


def test_counting_changes_no_bit() -> None:
    def trained(meter: FlopMeter | None) -> list[Tensor]:
        torch.manual_seed(0)
        network = Moving()
        if meter:
            meter.watch(network)
        found = []
        for _ in range(3):
            out = network(torch.rand(4, 6))
            out.sum().backward()
            if meter:
                assert meter.flop() > 0
            found += [out.detach(), torch.rand(2), *(p.grad for p in network.parameters() if p.grad is not None)]
            found += [buffer.clone() for buffer in network.buffers()]
        return found

    plain, counting = trained(None), trained(FlopMeter())
    assert len(plain) == len(counting)
    assert all(torch.equal(a, b) for a, b in zip(plain, counting, strict=True))


class OfNumbers(nn.Module):
    """A network that does what its numbers say, which shapes do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[x.sum(1) > 0])


def test_a_network_that_cannot_be_counted_is_told_once_and_the_others_are_counted() -> None:
    told: list[str] = []
    meter, odd, plain = FlopMeter(told.append), OfNumbers(), nn.Linear(4, 4)
    meter.watch(odd)
    meter.watch(plain)
    for _ in range(2):
        odd(torch.rand(3, 4))
        plain(torch.rand(3, 4))
    with torch.no_grad():
        assert meter.flop() == 2 * 2 * (2 * 3 * 4 * 4)
        assert meter.flop() == 2 * 2 * (2 * 3 * 4 * 4)
    assert len(told) == 1
    assert "OfNumbers" in told[0]
    assert list(meter.uncounted) == ["OfNumbers"]


@dataclass
class Answer:
    out: Tensor
    more: dict[str, Tensor]


class Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, taps: tuple[int, ...]) -> Answer:
        return Answer(self.layer(x), {str(tap): F.linear(x, self.layer.weight) for tap in taps})


def test_gradients_are_counted_for_every_output_and_each_sort_of_call() -> None:
    network, meter = Answering(), FlopMeter()
    meter.watch(network)
    each = 2 * 3 * 4 * 4
    network(torch.rand(3, 4), taps=())
    assert meter.flop() == 2 * each
    network(torch.rand(3, 4), taps=(1, 2))
    assert meter.flop() == 2 * each + 6 * each


def test_networks_that_are_alike_are_counted_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, LENGTH, WIDTH_SMALL)
    assert counted(Block(), x) == of_blocks(2)
    monkeypatch.setattr("gaekit.train.flops._Copy.count", lambda *_: pytest.fail("counted again"))
    assert counted(Block(), x) == of_blocks(2)


def test_networks_that_differ_in_a_part_alone_are_counted_each() -> None:
    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + super().forward(x)

    once, twice = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(Twice(4, 4))
    assert counted(once, torch.rand(3, 4)) * 2 == counted(twice, torch.rand(3, 4))
