"""diffusers' AutoencoderRAE (arXiv 2510.11690), in a folder with its settings: a frozen encoder, the decoder of a
masked autoencoder, statistics of the latents.

The encoder is a DINOv2 with registers, a SigLIP 2 or a masked autoencoder of `transformers`, whose versions 4 and 5
call their parts differently. Ours has one form for all: positions are resampled to the grid and added to the class
token, scales of layers are multiplied into the projection before them, queries, keys and values are one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gaekit.errors import ArtifactError
from gaekit.interop.autoencoders import both, empty
from gaekit.interop.fitting import check_names, joined, load
from gaekit.interop.reading import State
from gaekit.interop.shapes import depth_of, of_blocks, side_of, tensor
from gaekit.nn.embed import sincos_positions
from gaekit.plugins import Registry
from gaekit.store.models import Autoencoder

KIND = "an AutoencoderRAE"
HEAD_DIM = 64
"""Channels of an attention head of every encoder that diffusers builds."""
LATENT_EPS = 1e-5
"""What diffusers adds to the latents' spread."""
NO_EPS = 1e-12
"""What `standardize` adds to a variance that has it already."""
LARGEST_GRID = 512
"""Patches a side for which statistics of each position are made room for."""
EXTENT = 16.0
"""To what diffusers' decoder counts rows and columns, whatever the grid."""


@dataclass(frozen=True)
class Form:
    """What no tensor tells of an encoder: tokens before the patches, its GELU, what its norms add, and how its
    positions are resampled: with antialiasing or without."""

    prefix: int
    gelu: Literal["exact", "tanh"]
    eps: float
    antialias: bool


FORMS = {
    "dinov2": Form(5, "exact", 1e-6, antialias=True),
    "siglip2": Form(0, "tanh", 1e-6, antialias=False),
    "mae": Form(1, "exact", 1e-12, antialias=False),
}
"""By diffusers' `encoder_type`."""
_UNUSED = (
    "encoder.embeddings.mask_token",
    "encoder.embeddings.position_ids",
    "encoder.head.",
    "decoder.decoder_pos_embed",
)
"""What a file may hold and nothing reads: of the pretraining; positions that diffusers makes anew."""
_RENAMED = (
    (r"^encoder\.vision_model\.", "encoder."),
    (r"^encoder\.(?:encoder\.)?layers?\.", "encoder.blocks."),
    (r"^decoder\.decoder_layers\.", "decoder.blocks."),
    (r"\.(?:attention\.attention|attention|self_attn)\.(?:to_)?([qkv])(?:uery|ey|alue|_proj)?\.", r".attn.\1."),
    (r"\.(?:attention\.(?:output\.dense|o_proj|to_out\.0)|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.(?:layer_norm1|layernorm_before)\.", ".norm1."),
    (r"\.(?:layer_norm2|layernorm_after)\.", ".norm2."),
    (r"^encoder\.embeddings\.patch_embeddings?(?:\.projection)?\.", "encoder.patch_embed.proj."),
    (r"^encoder\.embeddings\.position_embedding(?:s|\.weight)$", "encoder.positions"),
    (r"^encoder\.embeddings\.(cls_token|register_tokens)$", r"encoder.\1"),
    (r"^decoder\.decoder_embed\.", "decoder.embed."),
    (r"^decoder\.decoder_norm\.", "decoder.norm."),
    (r"^decoder\.decoder_pred\.", "decoder.linear_out."),
    (r"^decoder\.trainable_cls_token$", "decoder.prefix"),
)
_THIRD = re.compile(r"(.*\.attn\.)([qkv])(\.(?:weight|bias))")


def read_rae(state: State, config: Mapping[str, Any], registry: Registry) -> Autoencoder:
    """An AutoencoderRAE with the settings `config`. Raises ArtifactError for what is missing, unexpected or unknown."""
    if not config:
        raise ArtifactError(
            "the tensors of an AutoencoderRAE do not tell its encoder's kind; take the folder that diffusers writes, "
            "or put its config.json beside the file"
        )
    if (kind := config.get("encoder_type", "dinov2")) not in FORMS:
        raise ArtifactError(f"its config.json has encoder_type {kind}; gaekit reads {', '.join(FORMS)}")
    form, given = FORMS[kind], _renamed(state)
    patch = tensor(given, "encoder.patch_embed.proj.weight", KIND).shape[-1]
    grid = int(config.get("encoder_input_size", 224)) // patch
    if not 1 <= grid <= LARGEST_GRID:
        raise ArtifactError(f"its config.json has an encoder_input_size of {grid} patches of {patch} pixels a side")
    stride = side_of(tensor(given, "decoder.linear_out.bias", KIND).shape[0] // 3, "decoder_pred")
    mean, deviation = _statistics(given, config, grid)
    colours = {name: tuple(tensor(given, f"encoder_{name}", KIND).flatten().tolist()) for name in ("mean", "std")}
    decoder = _decoder(given, config)
    spec = {
        "image_size": grid * stride,
        "stride": stride,
        "latent_dim": tensor(given, "encoder.patch_embed.proj.weight", KIND).shape[0],
        "encoder": {**_encoder(given, form, patch), **colours},
        "decoder": {**decoder, **colours, "restore": "channel" if mean.ndim == 1 else "position"},
        "regularizer": {
            "use": "standardize",
            "statistics": "channel" if mean.ndim == 1 else "position",
            "momentum": 0,
            "eps": NO_EPS,
        },
    }
    model = empty(spec, registry, f"imported {KIND}")
    halves = [_half(given, half) for half in ("encoder", "decoder")]
    _embed_positions(halves[0], form, grid)
    halves[1]["positions"] = sincos_positions(decoder["width"], grid, extent=EXTENT)
    ours = both(*halves) | _standardisation(mean, deviation)
    check_names(ours, model.state_dict(), kind=KIND)
    load(model, ours)
    return model


def factors_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What its training had besides: the largest level of the noise that was added to the latents."""
    return {"noise_tau": config.get("noise_tau", 0.0)}


def _renamed(state: State) -> State:
    """The tensors that are read, under names that all versions share; queries, keys and values as one."""
    plain: State = {}
    for key, value in state.items():
        for theirs, ours in _RENAMED:
            key = re.sub(theirs, ours, key)
        if not key.startswith(_UNUSED):
            plain[key] = value.float()
    return joined(plain, _THIRD)


def _half(given: State, half: str) -> State:
    """The tensors of one half, scales of layers multiplied into the projections before them."""
    found = {key.removeprefix(f"{half}."): value for key, value in given.items() if key.startswith(f"{half}.")}
    scales = {"layer_scale1.lambda1": "attn.proj", "layer_scale2.lambda1": "mlp.fc2"}
    for key in [key for key in found if key.endswith(tuple(scales))]:
        block, _, name = key.partition(".layer_scale")
        scale, layer = found.pop(key), f"{block}.{scales[f'layer_scale{name}']}"
        for part, factor in ((f"{layer}.weight", scale[:, None]), (f"{layer}.bias", scale)):
            if part in found:
                found[part] = found[part] * factor
    return found


def _embed_positions(encoder: State, form: Form, grid: int) -> None:
    """Resample positions to the grid; put the class token, with its position, and the registers into `prefix`."""
    positions = tensor(encoder, "positions", KIND).reshape(1, -1, encoder["positions"].shape[-1])
    own, patches = positions[:, : min(form.prefix, 1)], positions[:, min(form.prefix, 1) :]
    side, width = side_of(patches.shape[1], "position_embeddings"), patches.shape[2]
    if side != grid:
        square = patches.transpose(1, 2).reshape(1, width, side, side)
        square = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False, antialias=form.antialias)
        patches = square.flatten(2).transpose(1, 2)
    tokens = [tensor(encoder, name, KIND) for name in ("cls_token", "register_tokens")[: min(form.prefix, 2)]]
    for name in ("cls_token", "register_tokens"):
        encoder.pop(name, None)
    encoder["positions"] = patches.contiguous()
    encoder["prefix"] = torch.cat([tokens[0] + own, *tokens[1:]], dim=1) if tokens else patches[:, :0].clone()


def _statistics(given: State, config: Mapping[str, Any], grid: int) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of the latents, (D,) where positions share them, else (D, H, W); taken out of `given`.

    Raises ArtifactError for what is of other latents.
    """
    width = tensor(given, "encoder.patch_embed.proj.weight", KIND).shape[0]
    shape, found = (width, grid, grid), []
    for name in ("_latents_mean", "_latents_std"):
        value = given.pop(name, torch.full((1,), 0.0 if name == "_latents_mean" else 1.0))
        try:
            found.append(value.broadcast_to((1, *shape))[0])
        except RuntimeError:
            raise ArtifactError(
                f"{name} of shape {tuple(value.shape)} is of other latents than those of {shape}"
            ) from None
    mean, deviation = found[0], (found[1] + LATENT_EPS) / float(config.get("scaling_factor", 1.0))
    if not (mean.isfinite().all() and deviation.isfinite().all() and bool((deviation > 0).all())):
        raise ArtifactError("its latents' statistics and scaling_factor must be finite, and their spread above 0")
    if all(bool((value == value[:, :1, :1]).all()) for value in (mean, deviation)):
        mean, deviation = mean[:, 0, 0], deviation[:, 0, 0]
    return mean.contiguous(), deviation.contiguous()


def _standardisation(mean: Tensor, deviation: Tensor) -> State:
    """The tensors of the regularizer, and of the decoder's layer that undoes it."""
    mean, deviation = (value[:, None, None] if value.ndim == 1 else value for value in (mean, deviation))
    return {
        "regularizer.mean": mean,
        "regularizer.variance": deviation.square(),
        "regularizer.batches": torch.tensor(0),
        "decoder.restore.scale": deviation,
        "decoder.restore.shift": mean.clone(),
    }


def _encoder(given: State, form: Form, patch: int) -> dict[str, Any]:
    width = tensor(given, "encoder.patch_embed.proj.weight", KIND).shape[0]
    return {
        "use": "rae",
        "depth": depth_of(given, "encoder.blocks.", KIND),
        "width": width,
        "heads": width // HEAD_DIM,
        "hidden": of_blocks(given, "encoder.blocks.", "mlp.fc1.weight", KIND).shape[0],
        "patch": patch,
        "prefix": form.prefix,
        "gelu": form.gelu,
        "eps": form.eps,
    }


def _decoder(given: State, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "use": "rae",
        "depth": depth_of(given, "decoder.blocks.", KIND),
        "width": tensor(given, "decoder.linear_out.weight", KIND).shape[1],
        "heads": config.get("decoder_num_attention_heads", 16),
        "hidden": of_blocks(given, "decoder.blocks.", "mlp.fc1.weight", KIND).shape[0],
    }
