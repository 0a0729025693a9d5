"""A CUDA device made of shapes and dtypes alone: networks are built and run on it without a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


def _watch(module: nn.Module) -> list[torch.dtype]:
    """A list that fills with the dtypes of what `module` gives."""
    seen: list[torch.dtype] = []
    module.register_forward_hook(lambda _module, _inputs, out: seen.append(out.dtype))
    return seen


@contextmanager
def fake_cuda(bf16: bool) -> Iterator[Callable[[nn.Module], list[torch.dtype]]]:
    """Everything built inside is on `cuda:0` and fake, under bf16 autocast or none; yields `_watch`.

    torch.autocast("cuda") turns itself off without a card, so its switches are set by hand.
    """
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with FakeTensorMode(), torch.device("cuda"):
        torch.set_autocast_enabled("cuda", bf16)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield _watch
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
            torch.clear_autocast_cache()
