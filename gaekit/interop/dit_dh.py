"""The parameter names of RAE's published DiT-DH checkpoints, and of gaekit's `dit_dh`.

Only the fixed frequencies of the time embedding are called differently. Importing leaves the numbers as they are, and
with them the convention that t = 1 is noise: the network that takes them is built with `convention: noise_at_one`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from gaekit.interop.dit import State, unwrap

Convention = Literal["data_at_one", "noise_at_one"]

PUBLISHED: Convention = "noise_at_one"
"""The setting `convention` of a `dit_dh` that takes published weights."""

_THEIRS, _OURS = "t_embedder.W", "t_embedder.frequencies"
_NEEDED = (_THEIRS, "s_embedder.proj.weight", "x_embedder.proj.weight", "final_layer.linear.weight")


def from_published(state: Mapping[str, Tensor]) -> State:
    """Weights for gaekit's `dit_dh`, in the PUBLISHED convention, from a published DiT-DH's.

    Raises ArtifactError for a file of another kind.
    """
    ours = unwrap(state, needed=_NEEDED, kind="DiT-DH")
    ours[_OURS] = ours.pop(_THEIRS)
    return ours


def to_published(state: Mapping[str, Tensor], *, convention: Convention = PUBLISHED) -> State:
    """Inverse of `from_published`; weights of the other `convention` are rewritten to speak the published one."""
    theirs = dict(state)
    if convention != PUBLISHED:
        theirs.update(_reversed(theirs))
    theirs[_THEIRS] = theirs.pop(_OURS)
    return theirs


def _reversed(state: Mapping[str, Tensor]) -> State:
    """What changes for the same network to be asked at 1 - t and to answer with the other sign.

    The first layer after the frequencies w sees sin and cos of a - u in place of those of u, a = 2 pi w and u = a t:
    by the addition theorems a rotation of its columns, exact up to rounding.
    """
    angle = 2 * math.pi * state[_OURS].double()
    weight = state["t_embedder.mlp.0.weight"]
    of_sin, of_cos = weight.double().chunk(2, dim=1)
    turned = [of_cos * angle.sin() - of_sin * angle.cos(), of_sin * angle.sin() + of_cos * angle.cos()]
    changed = {"t_embedder.mlp.0.weight": torch.cat(turned, dim=1).to(weight.dtype)}
    for part in ("weight", "bias"):
        changed[f"final_layer.linear.{part}"] = -state[f"final_layer.linear.{part}"]
    return changed
