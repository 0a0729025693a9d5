"""Reading the reference fixtures of `tests/golden` and comparing with them.

from parity_helpers import close, load_fixture

config, state, inputs, outputs = load_fixture("lightning_dit")
close(ours, outputs["velocity"])
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from drawn_weights import drawn
from safetensors import safe_open
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 2e-5

Tensors = dict[str, Tensor]


def load_fixture(name: str) -> tuple[dict[str, Any], Tensors, Tensors, Tensors]:
    """(config, state, inputs, outputs) of `golden/<name>.safetensors`, the prefixes cut off the tensors' names.

    A state that is `drawn` is drawn.
    """
    groups: dict[str, Tensors] = {"state": {}, "in": {}, "out": {}}
    with safe_open(str(GOLDEN / f"{name}.safetensors"), framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        for key in file.keys():  # noqa: SIM118 -- the file is no mapping
            group, _, rest = key.partition(".")
            groups[group][rest] = file.get_tensor(key)
    return config, groups["state"] or drawn(config.get("drawn", {})), groups["in"], groups["out"]


def close(ours: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    """Fail unless shapes agree and max|ours - reference| <= tolerance * (1 + max|reference|)."""
    assert ours.shape == reference.shape, f"shape {tuple(ours.shape)}, the reference has {tuple(reference.shape)}"
    error = (ours.detach().double() - reference.double()).abs().max()
    allowed = tolerance * (1 + reference.double().abs().max())
    assert torch.isfinite(ours).all(), "not finite"
    assert error <= allowed, f"max|ours - reference| = {error:.3e}, allowed {allowed:.3e}"
