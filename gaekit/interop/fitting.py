"""Putting a file's tensors into a network, or saying in the file's own names what does not fit, and why it may not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gaekit.errors import ArtifactError, GaekitError

_MARKS: dict[str, tuple[str, ...]] = {
    "gae": ("foundation_encoder.pos_embed", "adapter.model.weight"),
    "gae-semantic": ("pos_embed_pro", "to_latent.weight"),
    "rae": ("decoder.trainable_cls_token", "decoder.decoder_embed.weight"),
    "dc-ae": ("encoder.conv_out.weight", "decoder.up_blocks.1.0.conv.weight"),
    "flux2-vae": ("bn.running_mean", "encoder.conv_in.weight"),
    "ldm-vae": ("encoder.conv_in.weight", "decoder.conv_in.weight"),
    "dit_dh": ("t_embedder.W", "s_embedder.proj.weight"),
    "lightningdit": ("x_embedder.proj.weight", "feat_rope.freqs_cos"),
    "dit or sit": ("x_embedder.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.adaLN_modulation.1.weight"),
}
"""Tensors that tell a format from the others; a SiT's are a DiT's."""
_DIFFUSERS = ("down_blocks.", "up_blocks.", "transformer_blocks.")
"""How tensors of diffusers' denoisers begin."""
SHOWN = 5


class Misfit(ArtifactError):
    """Tensors that are missing, unexpected or of another shape, in the names of the file, the first five of each."""

    def __init__(self, kind: str, missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str]):
        self.missing, self.unexpected = missing, unexpected
        faults = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        super().__init__(f"does not fit {kind}: " + "; ".join(_listed(what, keys) for what, keys in faults if keys))


def check_names(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, kind: str) -> None:
    """Raises Misfit unless names and shapes agree."""
    missing, unexpected = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in given and given[key].shape != value.shape
    ]
    if missing or unexpected or shapes:
        raise Misfit(kind, missing, unexpected, shapes)


def joined(state: Mapping[str, Tensor], third: re.Pattern[str]) -> dict[str, Tensor]:
    """The state with queries, keys and values of an attention as one matrix; an incomplete one keeps its names.

    `third` matches the name of one of them in three groups: what is before its letter, the letter, what is behind it.
    The letters become `qkv`.
    """
    found = {}
    for key, value in state.items():
        named = third.fullmatch(key)
        parts = [f"{named[1]}{letter}{named[3]}" for letter in "qkv"] if named else []
        if not named or not all(part in state for part in parts):
            found[key] = value
        elif named[2] == "q":
            found[f"{named[1]}qkv{named[3]}"] = torch.cat([state[part] for part in parts])
    return found


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Hand the tensors, in float32, to a network that was built on the meta device; they are not copied."""
    wide = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    module.load_state_dict(wide, assign=True)
    module.eval().requires_grad_(False)


def likely_cause(error: GaekitError, state: Mapping[str, Tensor], format_name: str) -> str | None:
    """Why a file may not be of the format that it was taken for, by the names of its tensors; None: no guess."""
    other = next((name for name, marks in _MARKS.items() if all(mark in state for mark in marks)), None)
    if other is not None and format_name not in other.split(" or "):
        return f"the names are those of format {other}"
    if any(key.startswith(_DIFFUSERS) for key in state):
        return (
            "the names are those of diffusers, of whose networks gaekit reads AutoencoderKL as ldm-vae, "
            "AutoencoderKLFlux2 as flux2-vae, AutoencoderDC as dc-ae and AutoencoderRAE as rae"
        )
    if not isinstance(error, Misfit):
        return None
    if error.missing and error.unexpected:
        return "the file is probably of a network with renamed or other parts"
    if error.missing:
        return "the file is probably cut off, or of a network without these parts"
    if error.unexpected:
        return "the file is probably of a network with parts that gaekit's has not"
    return "parts of different networks were probably mixed, or an option does not fit the file"


def _listed(what: str, keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{more}"
