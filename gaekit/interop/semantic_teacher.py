"""GAE's published semantic teachers: their parameter names and gaekit's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gaekit.errors import ArtifactError

_PLAIN = {
    "pos_embed_pro": "semantic.positions_down",
    "pos_embed_dec": "semantic.positions_up",
    "projector_block.attn.qkv.weight": "semantic.mix.qkv.weight",
    "projector_block.attn.proj.weight": "semantic.mix.proj.weight",
    "to_latent.weight": "semantic.to_latent.weight",
    "recon_head.weight": "semantic.from_latent.weight",
}
_BLOCK = {
    "attn.qkv.weight": "attn.qkv.weight",
    "attn.proj.weight": "attn.proj.weight",
    "mlp.fc2.weight": "mlp.w3.weight",
}
_IGNORED = "base_model."
"""The release keeps the frozen DINOv2 in the same file."""


def from_gae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `latent` aligner from that of a published semantic teacher (`model_state_dict` of its checkpoint).

    Raises ArtifactError for keys that are missing or unknown.
    """
    given = {key.removeprefix("module."): value for key, value in state.items()}
    given = {key: value for key, value in given.items() if not key.startswith(_IGNORED)}
    depth = len({key.split(".")[1] for key in given if key.startswith("decoder_layers.")})
    ours: dict[str, Tensor] = {}
    try:
        for theirs, name in _PLAIN.items():
            ours[name] = given.pop(theirs)
        for index in range(depth):
            block = f"semantic.blocks.{index}."
            for theirs, name in _BLOCK.items():
                ours[block + name] = given.pop(f"decoder_layers.{index}.{theirs}")
            # they keep the gate's two inner projections apart; SwiGLU holds them as one matrix, the gated one first
            inner = [given.pop(f"decoder_layers.{index}.mlp.{part}.weight") for part in ("fc1", "gate")]
            ours[f"{block}mlp.w12.weight"] = torch.cat(inner)
    except KeyError as error:
        raise ArtifactError(f"not a semantic teacher of GAE's: {error.args[0]} is missing") from None
    if given:
        raise ArtifactError(f"not a semantic teacher of GAE's: it has {', '.join(sorted(given)[:5])} besides")
    return ours


def to_gae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `from_gae`, without a frozen model."""
    theirs = {name: state[ours] for name, ours in _PLAIN.items()}
    depth = len({key.split(".")[2] for key in state if key.startswith("semantic.blocks.")})
    for index in range(depth):
        block, layer = f"semantic.blocks.{index}.", f"decoder_layers.{index}."
        for name, ours in _BLOCK.items():
            theirs[layer + name] = state[block + ours]
        # Cloned: halves of one storage cannot be saved as two tensors.
        first, gate = (part.clone() for part in state[f"{block}mlp.w12.weight"].chunk(2))
        theirs[f"{layer}mlp.fc1.weight"], theirs[f"{layer}mlp.gate.weight"] = first, gate
    return theirs
