"""In which type a forward pass computes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """What `auto` means on this device: bf16 on CUDA, float32 elsewhere."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """torch's autocast for a resolved precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
