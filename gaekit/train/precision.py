"""In which type networks compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

TF32_CAPABILITY = (8, 0)
"""The first cards with TensorFloat-32."""


def resolve_precision(precision: str, device: torch.device) -> str:
    """What a setting means on this device: `float32`, `tf32` or `bf16`.

    auto is bf16 on a CUDA card that computes in it, float32 elsewhere. tf32 is float32 where there is no TF32: on a
    CPU, and on CUDA cards before Ampere.
    """
    if precision == "auto":
        return "bf16" if _has_bf16(device) else "float32"
    if precision == "tf32" and not _has_tf32(device):
        return "float32"
    return precision


def _has_bf16(device: torch.device) -> bool:
    """Whether a card computes in bfloat16, rather than emulates it."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32_CAPABILITY


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Have matrix products and convolutions of float32 tensors on CUDA use TF32 where a resolved precision is tf32, and
    float32's whole mantissa otherwise: both the same, where torch would let convolutions alone use TF32. What was set
    before is restored."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """torch's autocast for a resolved precision: bf16 where it is that, none otherwise, whatever is around it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Have networks compute in a resolved precision, their forward passes and what is done with their outputs."""
    with float32_products(precision), autocast(precision, device):
        yield
