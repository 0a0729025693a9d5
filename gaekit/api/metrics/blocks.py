"""Networks on batches of one size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CPU_BLOCK, BLOCK = 4, 64
"""Images that a network sees at once: on the CPU, where more of them are no faster, and on an accelerator."""


def in_blocks(network: Callable[[Tensor], Tensor], image_B3RR: Tensor, *, block: int | None = None) -> Tensor:
    """`network` of images, or latents, a row each, which it sees in blocks of one size, the last filled up with zeros:
    of `block`, by default as many as do for a network that features are taken of.

    Kernels are chosen by the size of a batch, and each rounds in its own way: 1e-6 of a float32 feature. So a row
    depends neither on how batches are cut nor on the images beside it.
    """
    size = block or (CPU_BLOCK if image_B3RR.device.type == "cpu" else BLOCK)
    rows = []
    for part in torch.split(image_B3RR, size):
        missing = part.new_zeros(size - len(part), *part.shape[1:])
        rows.append(network(torch.cat([part, missing]))[: len(part)])
    return torch.cat(rows)
