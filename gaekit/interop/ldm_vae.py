"""The parameter names of latent diffusion's autoencoders (SD-VAE, VA-VAE) and ours, and what their shapes tell.

Ours differ in three ways: levels are `levels` in both halves; a middle is a sequence; the projections to queries, keys
and values of an attention are one matrix, where theirs are 1 x 1 convolutions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaekit.errors import ArtifactError

State = dict[str, Tensor]

_NAMES = (
    (".block.", ".blocks."),
    (".attn.", ".attentions."),
    (".nin_shortcut.", ".shortcut."),
    ("mid.block_1.", "mid.0."),
    ("mid.attn_1.", "mid.1."),
    ("mid.block_2.", "mid.2."),
)
_HALVES = {
    "encoder": (("down.", "levels."), (".downsample.", ".resample."), *_NAMES),
    "decoder": (("up.", "levels."), (".upsample.", ".resample."), *_NAMES),
}
_THEIR_ATTENTION = re.compile(r"(.*)\.(q|k|v|proj_out)\.(weight|bias)")
_OUR_ATTENTION = re.compile(r"(.*)\.attention\.(qkv|proj)\.(weight|bias)")
_WRAPPER = "first_stage_model."
"""Under which a whole latent diffusion model keeps its autoencoder."""
_TRAINING_ONLY = ("loss.", "model_ema.", "foundation_model.", "linear_proj.")
"""What a published training checkpoint may carry besides the autoencoder."""
_NEEDED = ("conv_in.weight", "conv_out.weight")
"""What the sizes of each half are read off."""

NO_SIZE = "an autoencoder of convolutions does not tell the images that it is for; say their side with --image-size N"


def autoencoder_from_published(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """(encoder, decoder) for gaekit's `conv` components from a published autoencoder's `state_dict`.

    Raises ArtifactError for keys that belong to no part of it, and where a part is absent.
    """
    halves: dict[str, State] = {"encoder": {}, "decoder": {}}
    unknown = []
    for key, value in _autoencoder_of(state).items():
        half, _, rest = key.partition(".")
        if half in halves:
            halves[half][_renamed(rest, half)] = value
        elif half == "quant_conv":
            halves["encoder"][key] = value
        elif half == "post_quant_conv":
            halves["decoder"][key] = value
        else:
            unknown.append(key)
    missing = [f"{name}.{key}" for name, half in halves.items() for key in _NEEDED if key not in half]
    if unknown or missing:
        faults = [f", and {verb} {', '.join(sorted(keys)[:5])}" for verb, keys in
                  (("holds", unknown), ("lacks", missing)) if keys]  # fmt: skip
        raise ArtifactError(
            "not an autoencoder of latent diffusion: it should hold encoder.*, decoder.*, quant_conv.* and "
            "post_quant_conv.*" + "".join(faults)
        )
    return _fused(halves["encoder"]), _fused(halves["decoder"])


def autoencoder_to_published(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> State:
    """Inverse of `autoencoder_from_published`."""
    state: State = {}
    for half, weights in (("encoder", encoder), ("decoder", decoder)):
        for key, value in _split(weights).items():
            outside = key.startswith(("quant_conv.", "post_quant_conv."))
            state[key if outside else f"{half}.{_renamed(key, half, back=True)}"] = value
    return state


@dataclass(frozen=True)
class Sizes:
    """An autoencoder's sizes as its tensors tell them; `encoder` and `decoder` are settings as in a recipe."""

    encoder: dict[str, Any]
    decoder: dict[str, Any]
    stride: int
    latent_dim: int
    moments: int


def sizes_of_published(state: Mapping[str, Tensor], *, resolution: int, alike: bool = True) -> Sizes:
    """The sizes of a published autoencoder; `resolution` is the side of the images that it was trained on.

    Unless its halves are `alike`, the decoder's levels may have other widths than the encoder's. Raises ArtifactError
    as `autoencoder_from_published` does, and where the halves contradict each other.
    """
    encoder, decoder = autoencoder_from_published(state)
    moments = encoder.get("quant_conv.weight", encoder["conv_out.weight"]).shape[0]
    latent_dim = decoder.get("post_quant_conv.weight", decoder["conv_in.weight"]).shape[1]
    ch = encoder["conv_in.weight"].shape[0]
    settings = {
        "encoder": _settings(encoder, ch, resolution, extra_blocks=0),
        "decoder": _settings(decoder, ch if alike else None, resolution, extra_blocks=1),
    }
    levels = [half["ch_mult"] if alike else len(half["ch_mult"]) for half in settings.values()]
    if levels[0] != levels[1] or moments not in (latent_dim, 2 * latent_dim):
        raise ArtifactError(
            f"halves of two autoencoders: the encoder has ch_mult {settings['encoder']['ch_mult']} and {moments} "
            f"moments, the decoder ch_mult {settings['decoder']['ch_mult']} and a latent of {latent_dim}"
        )
    if "quant_conv.weight" in encoder:
        settings["encoder"]["conv_out_channels"] = encoder["conv_out.weight"].shape[0]
        settings["decoder"]["conv_in_channels"] = decoder["conv_in.weight"].shape[1]
    return Sizes(
        **settings, stride=2 ** (len(settings["encoder"]["ch_mult"]) - 1), latent_dim=latent_dim, moments=moments
    )


def means_alone(state: Mapping[str, Tensor]) -> State:
    """The published state without what makes the log-variances: the second half of the last convolution's channels."""
    stem = "quant_conv" if "quant_conv.weight" in state else "encoder.conv_out"
    parts = [f"{stem}.weight", f"{stem}.bias"]
    return {key: value.chunk(2)[0].clone() if key in parts else value for key, value in state.items()}


def _settings(half: Mapping[str, Tensor], ch: int | None, resolution: int, *, extra_blocks: int) -> dict[str, Any]:
    """The settings that both halves have; without `ch` it is the largest that makes all levels."""
    widths: dict[int, int] = {}
    blocks, attending = 0, set()
    for key, value in half.items():
        if found := re.fullmatch(r"levels\.(\d+)\.blocks\.(\d+)\.conv2\.weight", key):
            widths[int(found[1])] = value.shape[0]
            blocks = max(blocks, int(found[2]) + 1)
        elif found := re.match(r"levels\.(\d+)\.attentions\.", key):
            attending.add(int(found[1]))
    if not widths:
        raise ArtifactError("not an autoencoder of latent diffusion: it has no residual blocks (block.0.conv2.weight)")
    ch = ch or math.gcd(*widths.values())
    if odd := [width for width in widths.values() if width % ch]:
        raise ArtifactError(
            f"levels of {', '.join(str(widths[level]) for level in sorted(widths))} channels after a first convolution "
            f"to {ch}: gaekit's have a multiple (ch_mult) of the first one's, which {odd[0]} is not"
        )
    return {
        "use": "conv",
        "ch": ch,
        "ch_mult": tuple(widths[level] // ch for level in sorted(widths)),
        "num_res_blocks": blocks - extra_blocks,
        "attn_resolutions": tuple(resolution >> level for level in sorted(attending)),
        "resolution": resolution,
        "quant_conv": any(key.endswith("quant_conv.weight") for key in half),
    }


def _autoencoder_of(state: Mapping[str, Tensor]) -> State:
    """The autoencoder's own tensors, out of a whole model's or a training's."""
    inner = {key.removeprefix(_WRAPPER): value for key, value in state.items() if key.startswith(_WRAPPER)}
    return {key: value for key, value in (inner or state).items() if not key.startswith(_TRAINING_ONLY)}


def _renamed(key: str, half: str, *, back: bool = False) -> str:
    for theirs, ours in _HALVES[half]:
        key = key.replace(ours, theirs, 1) if back else key.replace(theirs, ours, 1)
    return key


def _fused(state: Mapping[str, Tensor]) -> State:
    """Queries, keys and values of an attention as one matrix; 1 x 1 convolutions as matrices."""
    fused: State = {}
    for key, value in state.items():
        found = _THEIR_ATTENTION.fullmatch(key)
        parts = [f"{found[1]}.{part}.{found[3]}" for part in ("q", "k", "v")] if found else []
        if not found or (found[2] != "proj_out" and not all(part in state for part in parts)):
            fused[key] = value  # of an incomplete attention: told, by its own name, with what else is missing
        elif found[2] == "proj_out":
            fused[f"{found[1]}.attention.proj.{found[3]}"] = _matrix(value)
        elif found[2] == "q":
            fused[f"{found[1]}.attention.qkv.{found[3]}"] = torch.cat([_matrix(state[part]) for part in parts])
    return fused


def _split(state: Mapping[str, Tensor]) -> State:
    """Inverse of `_fused`."""
    split: State = {}
    for key, value in state.items():
        found = _OUR_ATTENTION.fullmatch(key)
        if not found:
            split[key] = value
        elif found[2] == "proj":
            split[f"{found[1]}.proj_out.{found[3]}"] = _convolution(value)
        else:
            # Cloned: thirds of one storage cannot be saved as three tensors.
            for part, third in zip("qkv", value.chunk(3), strict=True):
                split[f"{found[1]}.{part}.{found[3]}"] = _convolution(third.clone())
    return split


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1) if weight.ndim == 4 else weight


def _convolution(weight: Tensor) -> Tensor:
    return weight[:, :, None, None] if weight.ndim == 2 else weight
