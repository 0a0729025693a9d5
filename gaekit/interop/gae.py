"""The parameter names of the published GAE and LightningDiT checkpoints, and ours. Pure renaming of dictionaries.

Ours differ in four ways: positions and blocks of a tokenizer's halves sit in a `trunk`; patch embeddings are a module
with a `proj`; the two inner matrices of a gated MLP are stored as one; the adapter has no inner `model`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from gaekit.errors import ArtifactError

State = dict[str, Tensor]

_GATED = re.compile(r"(.*\.)?mlp\.(fc1|gate|fc2)\.(weight|bias)")
_FUSED = re.compile(r"(.*\.)?mlp\.(w12|w3)\.(weight|bias)")
_TRAINING_ONLY = ("loss.", "frozen_encoder.", "linear_proj.")
"""What a published training checkpoint may carry besides the tokenizer."""


def fuse_gates(state: Mapping[str, Tensor]) -> State:
    """`mlp.fc1` and `mlp.gate` joined to `mlp.w12`, `mlp.fc2` named `mlp.w3`; the rest, plain MLPs too, as it is."""
    fused: State = {}
    for key, value in state.items():
        found = _GATED.fullmatch(key)
        stem, part, kind = found.groups(default="") if found else ("", "", "")
        gate = f"{stem}mlp.gate.{kind}"
        if not found or gate not in state:
            fused[key] = value
        elif part == "fc1":
            fused[f"{stem}mlp.w12.{kind}"] = torch.cat([value, state[gate]])
        elif part == "fc2":
            fused[f"{stem}mlp.w3.{kind}"] = value
    return fused


def split_gates(state: Mapping[str, Tensor]) -> State:
    """Inverse of `fuse_gates`."""
    split: State = {}
    for key, value in state.items():
        found = _FUSED.fullmatch(key)
        if not found:
            split[key] = value
            continue
        stem, part, kind = found.groups(default="")
        if part == "w3":
            split[f"{stem}mlp.fc2.{kind}"] = value
        else:
            # Cloned: halves of one storage cannot be saved as two tensors.
            split[f"{stem}mlp.fc1.{kind}"], split[f"{stem}mlp.gate.{kind}"] = (part.clone() for part in value.chunk(2))
    return split


_TRUNK = ("pos_embed", "blocks.")
_PATCH = "patch_embed."


def tokenizer_from_published(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """(encoder, decoder) for gaekit's `vit` components from a published tokenizer's `state_dict`.

    Raises ArtifactError for keys that belong to no part of it, and where a part is absent.
    """
    encoder: State = {}
    decoder: State = {}
    unknown = []
    for key, value in fuse_gates(state).items():
        half, _, rest = key.partition(".")
        if half == "foundation_encoder":
            encoder[_ours(rest)] = value
        elif half == "decoder":
            decoder[_ours(rest)] = value
        elif key.startswith("adapter.model."):
            encoder["adapter." + key.removeprefix("adapter.model.")] = value
        elif not key.startswith(_TRAINING_ONLY):
            unknown.append(key)
    if unknown or "adapter.weight" not in encoder or not decoder:
        raise ArtifactError(
            "not a published GAE tokenizer: it should hold foundation_encoder.*, adapter.model.weight and decoder.*"
            + (f", and holds {', '.join(sorted(unknown)[:5])}" if unknown else "")
        )
    return encoder, decoder


def tokenizer_to_published(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> State:
    """Inverse of `tokenizer_from_published`."""
    state: State = {}
    for key, value in encoder.items():
        if key.startswith("adapter."):
            state["adapter.model." + key.removeprefix("adapter.")] = value
        else:
            state["foundation_encoder." + _theirs(key)] = value
    state.update({"decoder." + _theirs(key): value for key, value in decoder.items()})
    return split_gates(state)


def _ours(key: str) -> str:
    if key.startswith(_TRUNK):
        return f"trunk.{key}"
    return key.replace(_PATCH, f"{_PATCH}proj.", 1) if key.startswith(_PATCH) else key


def _theirs(key: str) -> str:
    return key.removeprefix("trunk.").replace(f"{_PATCH}proj.", _PATCH, 1)


def denoiser_from_published(state: Mapping[str, Tensor], *, absolute_positions: bool = True) -> State:
    """Weights for gaekit's `lightning_dit` from a published LightningDiT's.

    A wrapper's `module.` is cut off, and positions that the network does not use are left out.
    """
    ours = {key.removeprefix("module."): value for key, value in state.items()}
    if not absolute_positions:
        ours.pop("pos_embed", None)
    return ours


def denoiser_to_published(state: Mapping[str, Tensor], *, tokens: int) -> State:
    """Inverse of `denoiser_from_published`; the published network holds positions always, zero where it uses none."""
    published = dict(state)
    if "pos_embed" not in published:
        width = published["t_embedder.mlp.2.weight"].shape[0]
        published["pos_embed"] = torch.zeros(1, tokens, width)
    return published
