"""A CUDA device made of shapes and dtypes alone: networks are built and run on it without a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


@cache
def _without_driver() -> bool:
    """Whether a fake tensor on CUDA can be filled on a machine that has no driver."""
    try:
        with FakeTensorMode():
            torch.empty(1, device="cuda").uniform_()
    except RuntimeError as error:
        if "CUDA" in str(error) and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14):
            return False
        raise
    return True


def fake_mode(**settings: Any) -> FakeTensorMode:
    """A FakeTensorMode that knows of CUDA; skips the test where an older torch asks a driver that is not there."""
    if not _without_driver():
        pytest.skip(f"torch {torch.__version__} fills even fake tensors of CUDA by a driver, and here is none")
    return FakeTensorMode(**settings)


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
    with fake_mode(), torch.device("cuda"):
        torch.set_autocast_enabled("cuda", bf16)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield _watch
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
            torch.clear_autocast_cache()
