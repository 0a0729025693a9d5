"""diffusers' AutoencoderKL: latent diffusion's autoencoder under other names, in a folder with its settings.

The network is the same. diffusers counts the decoder's levels from the latent up, latent diffusion from the image down,
and its attentions project by matrices, latent diffusion's by 1 x 1 convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.interop.diffusers_folder import CONFIG, WEIGHTS, settings_beside
from gaekit.nn.conv import GROUPS
from gaekit.store.files import atomic, write_json

State = dict[str, Tensor]

SD_FACTOR = 0.18215
"""What diffusers takes for `scaling_factor` where a config.json says none."""
NETWORK: dict[str, Any] = {"norm_num_groups": GROUPS, "act_fn": "silu"}
"""Settings that no tensor tells, as gaekit's autoencoder `conv` has them."""
_FACTORS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""Settings about the latents that no tensor tells and gaekit keeps."""
_MARKS = ("encoder.down_blocks.", "encoder.mid_block.", "decoder.up_blocks.", "decoder.mid_block.")
_NAMES = (
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.attentions.0.", "mid.attn_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("down_blocks.", "down."),
    ("up_blocks.", "up."),
    (".resnets.", ".block."),
    (".attentions.", ".attn."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    (".conv_shortcut.", ".nin_shortcut."),
    ("conv_norm_out.", "norm_out."),
    (".group_norm.", ".norm."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".proj_out."),
)
"""(diffusers' part of a name, latent diffusion's)."""
_FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers called the projections of an attention at first, and what it calls them now."""
_FORMER_KEY = re.compile(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_PROJECTION = re.compile(r".*\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")
_LEVEL = re.compile(r"(decoder\.up(?:_blocks)?\.)(\d+)(\..*)")
_ANY_LEVEL = re.compile(r"(?:encoder\.down|decoder\.up)(?:_blocks)?\.(\d+)\.")
_BLOCK = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.")
_DOWN, _UP = "encoder.down", "decoder.up"


def is_diffusers(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of an AutoencoderKL."""
    return any(key.startswith(_MARKS) for key in state)


def renewed(state: Mapping[str, Tensor]) -> State:
    """The state in the names that diffusers writes today, projections of attentions as matrices."""
    found: State = {}
    for key, value in state.items():
        if former := _FORMER_KEY.fullmatch(key):
            key = f"{former[1]}.{_FORMER[former[2]]}.{former[3]}"
        found[key] = value.flatten(1) if _PROJECTION.fullmatch(key) else value
    return found


def to_published(state: Mapping[str, Tensor]) -> State:
    """An AutoencoderKL's state in latent diffusion's names; what has no name there keeps its own."""
    found: State = {}
    for key, value in _turned(renewed(state)).items():
        for theirs, published in _NAMES:
            key = key.replace(theirs, published, 1)
        found[key] = value
    return found


def from_published(state: Mapping[str, Tensor]) -> State:
    """Inverse of `to_published`: the names of today, projections as matrices."""
    found: State = {}
    for key, value in _turned(state).items():
        for theirs, published in _NAMES:
            key = key.replace(published, theirs, 1)
        found[key] = value
    return renewed(found)


def config_of(state: Mapping[str, Tensor], *, image_size: int, factors: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of a state in diffusers' names; `factors` are its settings about the latents.

    Raises ArtifactError where no AutoencoderKL has these sizes.
    """
    widths, blocks, attending = _levels(state)
    latent_dim = state.get("post_quant_conv.weight", state["decoder.conv_in.weight"]).shape[1]
    if faults := list(_faults(state, widths[0], blocks, latent_dim)):
        raise ArtifactError(f"diffusers' AutoencoderKL has no place for {'; '.join(faults)}")
    levels = range(len(widths))
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "out_channels": state["decoder.conv_out.weight"].shape[0],
        "down_block_types": [f"{'Attn' if (_DOWN, level) in attending else ''}DownEncoderBlock2D" for level in levels],
        "up_block_types": [f"{'Attn' if (_UP, level) in attending else ''}UpDecoderBlock2D" for level in levels],
        "block_out_channels": widths,
        "layers_per_block": blocks[_DOWN],
        "act_fn": "silu",
        "latent_channels": latent_dim,
        "norm_num_groups": GROUPS,
        "sample_size": image_size,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "mid_block_add_attention": True,
        **factors,
    }


def factors_beside(file: Path) -> dict[str, Any]:
    """What the config.json beside a file of weights says of its latents; {} where there is none.

    Raises ArtifactError where it says that the network is another than gaekit's, which no tensor would tell.
    """
    if not (config := settings_beside(file, {"_class_name": "AutoencoderKL", **NETWORK})):
        return {}
    return {"scaling_factor": SD_FACTOR, **{key: config[key] for key in _FACTORS if config.get(key) is not None}}


def write_folder(out: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> list[Path]:
    """Write what `AutoencoderKL.from_pretrained(out)` reads; returns the files."""
    with atomic(out / WEIGHTS) as part:
        save_file({key: value.contiguous() for key, value in state.items()}, part, metadata={"format": "pt"})
    write_json(out / CONFIG, dict(config))
    return [out / WEIGHTS, out / CONFIG]


def _turned(state: Mapping[str, Tensor]) -> State:
    """The decoder's levels counted from the other end; there are as many as in the encoder."""
    last = max((int(found[1]) for key in state if (found := _ANY_LEVEL.match(key))), default=0)
    turned: State = {}
    for key, value in state.items():
        level = _LEVEL.fullmatch(key)
        turned[f"{level[1]}{last - int(level[2])}{level[3]}" if level else key] = value
    return turned


def _levels(state: Mapping[str, Tensor]) -> tuple[list[int], dict[str, int], set[tuple[str, int]]]:
    """(channels of each level, residual blocks a level of each half, the levels with attention)."""
    widths: dict[int, int] = {}
    blocks, attending = {_DOWN: 0, _UP: 0}, set()
    for key, value in state.items():
        if not (found := _BLOCK.match(key)):
            continue
        half, level = found[1], int(found[2])
        if found[3] == "attentions":
            attending.add((half, level))
            continue
        blocks[half] = max(blocks[half], int(found[4]) + 1)
        if half == _DOWN and key.endswith(".conv2.weight"):
            widths[level] = value.shape[0]
    return [widths[level] for level in sorted(widths)], blocks, attending


def _faults(state: Mapping[str, Tensor], width: int, blocks: Mapping[str, int], latent_dim: int) -> Iterator[str]:
    """Sizes that gaekit's autoencoder may have and diffusers' has not, by the names of their settings."""
    stem, between = state["encoder.conv_in.weight"].shape[0], state["encoder.conv_out.weight"].shape[0]
    if stem != width:
        yield f"ch {stem} and a first level of {width}: its ch_mult begins with 1"
    if between != 2 * latent_dim:
        yield f"conv_out_channels {between}: it has {2 * latent_dim}, two a channel of the latent"
    if (between := state["decoder.conv_in.weight"].shape[1]) != latent_dim:
        yield f"conv_in_channels {between}: it has {latent_dim}, as the latent"
    if blocks[_UP] != blocks[_DOWN] + 1:
        yield f"num_res_blocks {blocks[_DOWN]} in the encoder and {blocks[_UP] - 1} in the decoder: it has one number"
