"""The average is the average, for all tensors in one call, and stays as it is after a step that was skipped."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gaekit.train.ema import EMA


class Network(nn.Module):
    """What trains, what does not, a buffer, and a weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.tied, self.frozen = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(2, 2).requires_grad_(False)
        self.tied.weight = self.trained.weight
        self.register_buffer("count", torch.zeros(2))
        self.narrow = nn.Parameter(torch.ones(5, dtype=torch.bfloat16))

    def move(self) -> None:
        """As a step of training would."""
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))
            self.count.add_(1)


def one_by_one(averages: dict[str, Tensor], network: nn.Module, weight: float) -> None:
    for name, parameter in network.named_parameters():
        averages[name].lerp_(parameter.detach().float(), weight)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("warmup", [False, True])
def test_it_is_the_average_of_each_tensor(offload: bool, warmup: bool) -> None:
    network = Network()
    ema = EMA(network, 0.9, warmup=warmup, offload=offload)
    wanted = {name: parameter.detach().float().clone() for name, parameter in network.named_parameters()}
    for step in range(100):
        network.move()
        ema.update(step)
        one_by_one(wanted, network, 1 - (min(0.9, (1 + step) / (10 + step)) if warmup else 0.9))
    found = ema.tensors
    assert found.keys() == network.state_dict().keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
    assert found["narrow"].dtype == torch.float32
    assert torch.equal(found["tied.weight"], found["trained.weight"])
    assert torch.equal(found["count"], network.count)
    assert torch.equal(found["frozen.weight"], network.frozen.weight)


@pytest.mark.parametrize("offload", [False, True])
def test_a_step_that_was_skipped_leaves_it_as_it_is(offload: bool) -> None:
    network = Network()
    ema = EMA(network, 0.5, offload=offload)
    before = {name: value.clone() for name, value in ema.tensors.items() if name != "count"}
    network.move()
    ema.update(0, torch.tensor(1.0))
    assert all(torch.equal(ema.tensors[name], value) for name, value in before.items())
    ema.update(1, torch.tensor(0.0))
    assert not torch.equal(ema.tensors["narrow"], before["narrow"])


def test_saved_averages_go_on_where_they_were() -> None:
    network = Network()
    ema = EMA(network, 0.9)
    network.move()
    ema.update(0)
    again = EMA(network, 0.9)
    again.load({name: value.clone() for name, value in ema.tensors.items()})
    network.move()
    for each in (ema, again):
        each.update(1)
    assert all(torch.equal(value, again.tensors[name]) for name, value in ema.tensors.items())


def test_the_tensors_of_a_large_network_are_averaged_many_times_as_fast_as_one_by_one() -> None:
    network = nn.ParameterList([nn.Parameter(torch.randn(8)) for _ in range(351)])  # of LightningDiT-XL there are 351
    ema, averages = EMA(network, 0.9999), {name: p.detach().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def separately() -> None:
        for name, parameter in network.named_parameters():
            averages[name].lerp_(parameter, 1 - 0.9999)

    def seconds(action: Callable[[], object]) -> float:
        start = time.process_time()
        for _ in range(5):
            action()
        return time.process_time() - start

    steps = iter(range(10_000))
    pairs = [(seconds(lambda: ema.update(next(steps))), seconds(separately)) for _ in range(200)]
    assert min(slow for _, slow in pairs) >= 5 * min(fast for fast, _ in pairs)
    assert all(torch.equal(value, averages[name]) for name, value in ema.tensors.items())
