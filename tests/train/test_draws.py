"""Randomness depends on what it is for, not on how the work is split, and costs what its own rows cost."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from scipy import stats

from gaekit.seeds import block_rows, random_rows, seed_for
from gaekit.train.draws import BatchDraws, ImageDraws

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
LATENT = (32, 16, 16)


def batch_draws(
    first: int, last: int, name: str = "noise", step: int = 3, seed: int = 0, device: torch.device = CPU
) -> BatchDraws:
    return BatchDraws((seed, "stage", step, name), first, last, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tail", [(), (1,), (3, 5), (16, 8, 8), LATENT])
@pytest.mark.parametrize("cuts", [range(97), range(0, 97, 3), [*range(0, 97, 16), 97], [0, 1, 64, 96, 97]])
def test_any_split_of_a_batch_sees_the_same_numbers(
    tail: Sequence[int], cuts: Sequence[int], device: torch.device
) -> None:
    def draw(first: int, last: int) -> list[torch.Tensor]:
        draws = batch_draws(first, last, device=device)
        return [draws.normal(*tail), draws.uniform(), draws.normal(*tail)]

    whole, parts = draw(0, max(cuts)), [draw(first, last) for first, last in pairwise(cuts)]
    for index in range(3):
        assert torch.equal(whole[index][: max(cuts)], torch.cat([part[index] for part in parts]))
    assert not torch.equal(whole[0], whole[2])
    assert whole[0].shape == (max(cuts), *tail)
    assert whole[1].shape == (max(cuts),)
    assert whole[0].dtype == torch.float32


@pytest.mark.parametrize("tail", [(), (16, 8, 8), LATENT])
def test_no_rows_but_those_of_own_blocks_are_drawn(tail: Sequence[int]) -> None:
    drawn = 0

    def count(out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        nonlocal drawn
        drawn += out.numel()
        return out.normal_(generator=generator)

    for first in range(0, 1024, 64):
        random_rows(count, 1, first, first + 64, tail, CPU)
    assert drawn == 1024 * torch.Size(tail).numel()
    drawn = 0
    random_rows(count, 1, 70, 71, tail, CPU)
    assert drawn == block_rows(tail, CPU) * torch.Size(tail).numel()


def test_a_large_row_is_drawn_alone() -> None:
    assert block_rows(LATENT, CPU) == 1
    assert block_rows(LATENT, torch.device("cuda")) == 16
    assert block_rows((), CPU) == 64
    assert block_rows((3, 1024, 1024), CPU) == 1


def test_noise_in_sixteen_passes_costs_as_one_draw_of_all_rows() -> None:
    def seconds(action: Callable[[], object]) -> float:
        start = time.process_time()
        action()
        return time.process_time() - start

    def passes() -> None:
        for first in range(0, 1024, 64):
            batch_draws(first, first + 64).normal(*LATENT)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [(seconds(passes), seconds(lambda: torch.randn(1024, *LATENT))) for _ in range(9)]
    finally:
        torch.set_num_threads(threads)
    assert min(ours for ours, _ in pairs) <= 1.3 * min(one for _, one in pairs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tail", [(), (4, 8, 8), LATENT])
def test_the_numbers_are_normal_and_uniform(tail: Sequence[int], device: torch.device) -> None:
    rows = 1 << 18 >> (torch.Size(tail).numel().bit_length() - 1)
    draws = batch_draws(0, rows, device=device)
    numbers = draws.normal(*tail).double().cpu().flatten()
    assert abs(float(numbers.mean())) < 4 / len(numbers) ** 0.5
    assert abs(float(numbers.var()) - 1) < 4 * (2 / len(numbers)) ** 0.5
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-3
    uniform = torch.cat([batch_draws(0, 4096, step=step, device=device).uniform() for step in range(16)]).cpu()
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert stats.kstest(uniform.double().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_rows_steps_names_calls_and_seeds_are_independent(device: torch.device) -> None:
    size = (64, 16, 16)  # 16,384 numbers: the correlation of independent ones has a deviation of 1/128
    rows = batch_draws(0, 64, device=device).normal(*size)
    draws = batch_draws(0, 1, device=device)
    draws.normal(*size)
    others = [
        draws.normal(*size),
        batch_draws(0, 1, step=4, device=device).normal(*size),
        batch_draws(0, 1, name="other", device=device).normal(*size),
        batch_draws(0, 1, seed=1, device=device).normal(*size),
        ImageDraws(0, "stage", range(2), device).normal(*size),
    ]
    columns = torch.cat([rows, *others]).flatten(1).double()
    correlation = torch.corrcoef(columns) - torch.eye(len(columns), device=device)
    assert float(correlation.abs().max()) < 6 / columns.shape[1] ** 0.5
    first = torch.cat([batch_draws(0, 64, step=step, device=device).normal(2, 2)[:, 0, 0] for step in range(256)])
    assert stats.kstest(first.double().cpu().numpy(), "norm").pvalue > 1e-3  # the first number after each seeding


def test_seeds_of_a_batch_differ_in_the_bits_that_a_cpu_generator_takes() -> None:
    rows = random_rows(torch.Tensor.normal_, 7, 0, 20_000, (1,), CPU, block=1)
    assert len(rows.unique()) > 19_990  # of float32 numbers a few coincide


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    together = ImageDraws(0, "x", range(6), CPU)
    alone = ImageDraws(0, "x", [4], CPU)
    for _ in range(2):
        assert torch.equal(together.normal(3)[4:5], alone.normal(3))
    assert torch.equal(together.uniform()[4:5], alone.uniform())


def test_purposes_differ_and_seeds_are_those_of_yesterday() -> None:
    assert len({seed_for(0, "a", 1), seed_for(0, "a", 2), seed_for(1, "a", 1), seed_for(0, "b", 1)}) == 4
    expected = int.from_bytes(hashlib.sha256(b"0/diffusion/7").digest()[:8], "little") >> 1
    assert seed_for(0, "diffusion", 7) == expected == 1604462012544292633
