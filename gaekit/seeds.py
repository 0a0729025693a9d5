"""Seeds as a function of what they are for."""

from __future__ import annotations

import hashlib

import torch


def seed_for(*purpose: int | str) -> int:
    """A 63-bit seed for a purpose, equal on every machine: the head of its sha256."""
    text = "/".join(str(part) for part in purpose)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator_for(*purpose: int | str) -> torch.Generator:
    """A CPU generator for a purpose."""
    return torch.Generator().manual_seed(seed_for(*purpose))
