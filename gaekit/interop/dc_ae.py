"""diffusers' AutoencoderDC (DC-AE, arXiv 2410.10733), in a folder with its settings: their names and ours.

Ours differ in three ways: levels are `levels` in both halves; projections are 1 x 1 convolutions; queries, keys and
values of all heads are one matrix, whose rows are heads of (query, key, value), where theirs is cut in three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.interop.autoencoders import empty
from gaekit.interop.fitting import check_names, joined, load
from gaekit.interop.formats import Options
from gaekit.interop.ldm_vae import NO_SIZE
from gaekit.interop.reading import State
from gaekit.plugins import Registry
from gaekit.store.models import Autoencoder

KIND = "a DC-AE"
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "encoder_out_shortcut": True,
    "decoder_in_shortcut": True,
    "decoder_conv_act_fn": "relu",
    "scaling_factor": 1.0,
}
"""What diffusers takes for a setting that its config.json does not say."""
_BLOCK = {
    "attn.to_out.": "0.proj.",
    "attn.norm_out.": "0.norm.",
    "conv_out.conv_inverted.": "1.inverted.",
    "conv_out.conv_depth.": "1.depth.",
    "conv_out.conv_point.": "1.point.",
    "conv_out.norm.": "1.norm.",
}
"""(diffusers' part of a name within a block of attention, ours)."""
_LEVEL = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+\.\d+)\.(.*)")
_SCALE = re.compile(r"attn\.to_qkv_multiscale\.(\d+)\.proj_(in|out)\.weight")
_THIRD = re.compile(r"(.*\.attn\.to_)([qkv])(\.weight)")
_COUNTER = ".num_batches_tracked"


def read_dc_ae(state: State, config: Mapping[str, Any], options: Options, registry: Registry) -> Autoencoder:
    """A DC-AE with the settings `config`. Raises ArtifactError for what gaekit's has not, is missing or not said."""
    if options.image_size is None:
        raise ArtifactError(NO_SIZE)
    if not config:
        raise ArtifactError(
            "the tensors of a DC-AE do not tell its heads and activations; take the folder that diffusers writes, or "
            "put its config.json beside the file"
        )
    said = {**DEFAULTS, **{key: value for key, value in config.items() if key in DEFAULTS}}
    if faults := list(_faults(said)):
        raise ArtifactError(f"gaekit's `dc_ae` has no place for {'; '.join(faults)}")
    spec = {
        "image_size": options.image_size,
        "stride": 2 ** (len(said["encoder_block_out_channels"]) - 1),
        "latent_dim": said["latent_channels"],
        "encoder": _encoder(said),
        "decoder": _decoder(said),
        "regularizer": {"use": "none"},
    }
    model = empty(spec, registry, f"imported {KIND}")
    check_names(_joined(state), to_published(model.state_dict()), kind=KIND)
    load(model, from_published(state))
    return model


def factors_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What diffusers multiplies the latents by."""
    return {"scaling_factor": config.get("scaling_factor", DEFAULTS["scaling_factor"])}


def from_published(state: Mapping[str, Tensor]) -> State:
    """Weights for gaekit's `dc_ae` halves from an AutoencoderDC's."""
    found: State = {}
    for key, value in _joined(state).items():
        ours = _ours(key)
        found[ours] = value[:, :, None, None] if value.ndim == 2 else value
    return found


def to_published(state: Mapping[str, Tensor]) -> State:
    """Inverse of `from_published`, but that queries, keys and values are one matrix: `attn.to_qkv`."""
    projections = (".0.qkv.weight", ".0.proj.weight")
    return {_theirs(key): value.flatten(1) if key.endswith(projections) else value for key, value in state.items()}


def _joined(state: Mapping[str, Tensor]) -> State:
    """The state with queries, keys and values as one matrix, without how many batches a batch norm has seen: ours stay
    as they are."""
    return joined({key: value for key, value in state.items() if not key.endswith(_COUNTER)}, _THIRD)


def _ours(key: str) -> str:
    if not (level := _LEVEL.fullmatch(key)):
        return key
    rest = level[4].replace("attn.to_qkv.", "0.qkv.", 1)
    if scale := _SCALE.fullmatch(rest):
        rest = f"0.scales.{scale[1]}.{0 if scale[2] == 'in' else 1}.weight"
    for theirs, ours in _BLOCK.items():
        rest = ours + rest.removeprefix(theirs) if rest.startswith(theirs) else rest
    return f"{level[1]}.levels.{level[3]}.{rest}"


def _theirs(key: str) -> str:
    level = re.fullmatch(r"(encoder|decoder)\.levels\.(\d+\.\d+)\.(.*)", key)
    if not level:
        return key
    rest = level[3].replace("0.qkv.", "attn.to_qkv.", 1)
    if scale := re.fullmatch(r"0\.scales\.(\d+)\.([01])\.weight", rest):
        rest = f"attn.to_qkv_multiscale.{scale[1]}.proj_{('in', 'out')[int(scale[2])]}.weight"
    for theirs, ours in _BLOCK.items():
        rest = theirs + rest.removeprefix(ours) if rest.startswith(ours) else rest
    return f"{level[1]}.{'down' if level[1] == 'encoder' else 'up'}_blocks.{level[2]}.{rest}"


def _encoder(said: Mapping[str, Any]) -> dict[str, Any]:
    downsample = "unshuffle" if said["downsample_block_type"] == "pixel_unshuffle" else "conv"
    return {**_half(said, "encoder"), "shortcut": said["encoder_out_shortcut"], "downsample": downsample}


def _decoder(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_half(said, "decoder"),
        "shortcut": said["decoder_in_shortcut"],
        "upsample": "interpolate" if said["upsample_block_type"] == "interpolate" else "shuffle",
        "batch_norm": _levels_of(said, "decoder_norm_types", "batch_norm"),
        "relu": _levels_of(said, "decoder_act_fns", "relu"),
        "out_activation": said["decoder_conv_act_fn"],
    }


def _half(said: Mapping[str, Any], half: str) -> dict[str, Any]:
    """The settings that both halves have."""
    attention = _levels_of(said, f"{half}_block_types", "EfficientViTBlock")
    scales = [said[f"{half}_qkv_multiscales"][level] for level in attention]
    return {
        "use": "dc_ae",
        "widths": tuple(said[f"{half}_block_out_channels"]),
        "depths": tuple(said[f"{half}_layers_per_block"]),
        "attention": attention,
        "scales": tuple(scales[0]) if scales else (),
        "head_dim": said["attention_head_dim"],
    }


def _each_level(said: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    """A setting of each level; one for all stands for itself at each."""
    value = said[key]
    return (
        (value,) * len(said[f"{key.partition('_')[0]}_block_out_channels"]) if isinstance(value, str) else tuple(value)
    )


def _levels_of(said: Mapping[str, Any], key: str, wanted: str) -> tuple[int, ...]:
    return tuple(level for level, value in enumerate(_each_level(said, key)) if value == wanted)


def _faults(said: Mapping[str, Any]) -> Iterator[str]:
    """Settings that gaekit's has not, by their names in config.json."""
    known = {
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_norm_types": ("rms_norm", "batch_norm"),
        "decoder_act_fns": ("silu", "relu"),
    }
    for key, names in known.items():
        if odd := [value for value in _each_level(said, key) if value not in names]:
            yield f"{key} {odd[0]}: it has {' and '.join(names)}"
    if said["decoder_conv_act_fn"] not in known["decoder_act_fns"]:
        yield f"decoder_conv_act_fn {said['decoder_conv_act_fn']}: it has silu and relu"
    if said["in_channels"] != 3:
        yield f"in_channels {said['in_channels']}: its images have 3"
    for half in ("encoder", "decoder"):
        attention = _levels_of(said, f"{half}_block_types", "EfficientViTBlock")
        if len({tuple(said[f"{half}_qkv_multiscales"][level]) for level in attention}) > 1:
            yield f"{half}_qkv_multiscales that differ between levels of attention: it has one setting for all"
