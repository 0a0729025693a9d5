"""Seeds and random numbers as a function of what they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BLOCK_NUMBERS = {"cuda": 1 << 17}
"""About how many numbers one seeding of a generator yields; fewer elsewhere, where a seeding costs a microsecond and
not the launch of a kernel."""
BLOCK_NUMBERS_ELSEWHERE = 1 << 13
BLOCK_ROWS = 64
"""The most rows of one seeding."""
GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: an odd number, so that its multiples differ also in their lower 32 bits, which are all
that torch's CPU generator takes of a seed."""
Fill = Callable[..., Tensor]


def seed_for(*purpose: int | str) -> int:
    """A 63-bit seed for a purpose, equal on every machine: the head of its sha256."""
    text = "/".join(str(part) for part in purpose)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator_for(*purpose: int | str) -> torch.Generator:
    """A CPU generator for a purpose."""
    return torch.Generator().manual_seed(seed_for(*purpose))


def block_rows(tail: Sequence[int], device: torch.device) -> int:
    """How many rows of shape `tail` are drawn after one seeding: a power of two, at most BLOCK_ROWS."""
    wanted = BLOCK_NUMBERS.get(device.type, BLOCK_NUMBERS_ELSEWHERE) // max(1, torch.Size(tail).numel())
    return 1 << (min(max(1, wanted), BLOCK_ROWS).bit_length() - 1)


def random_rows(
    fill: Fill, seed: int, first: int, last: int, tail: Sequence[int], device: torch.device, block: int | None = None
) -> Tensor:
    """Rows [first, last) of an endless table of random numbers (rows, *tail), float32, drawn on `device`.

    A row depends on (seed, its index, tail, type of device) alone. `fill` is `Tensor.normal_` or `Tensor.uniform_`.
    One generator is seeded anew for every `block` rows (`block_rows`, if None), from a multiple of it on; of a block
    that the range cuts all rows are drawn. Seeding and drawing on a GPU make the host wait for nothing.
    """
    block = block or block_rows(tail, device)
    out = torch.empty(last - first, *tail, device=device)
    generator = torch.Generator(device)
    for start in range(first - first % block, last, block):
        generator.manual_seed((seed + start // block * GOLDEN) % (1 << 64))
        begin, end = max(first, start), min(last, start + block)
        own = out[begin - first : end - first]
        if len(own) == block:
            fill(own, generator=generator)
        else:
            own.copy_(fill(torch.empty(block, *tail, device=device), generator=generator)[begin - start : end - start])
    return out
