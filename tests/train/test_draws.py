"""Randomness depends on what it is for, not on how the work is split."""

from __future__ import annotations

import hashlib

import torch

from gaekit.seeds import generator_for, seed_for
from gaekit.train.draws import BatchDraws, ImageDraws

CPU = torch.device("cpu")


def test_any_split_of_a_batch_sees_the_same_numbers() -> None:
    def draw(first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = BatchDraws(generator_for(0, "stage", 3, "noise"), 8, first, last, CPU)
        return draws.normal(2, 2), draws.uniform()

    whole, parts = draw(0, 8), [draw(0, 3), draw(3, 8)]
    for index in range(2):
        assert torch.equal(whole[index], torch.cat([part[index] for part in parts]))


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
