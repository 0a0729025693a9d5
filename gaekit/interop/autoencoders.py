"""Published autoencoders as gaekit's: GAE's tokenizer, latent diffusion's autoencoders, GAE's semantic teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaekit.api import Aligner
from gaekit.errors import ArtifactError
from gaekit.interop import diffusers_vae, gae, ldm_vae, semantic_teacher
from gaekit.interop.fitting import check_names, load
from gaekit.interop.formats import Options
from gaekit.interop.reading import State
from gaekit.interop.shapes import depth_of, heads_of, in_some_block, of_blocks, ratio_of, side_of, tensor
from gaekit.nn.mlp import gated_width
from gaekit.plugins import Registry, build
from gaekit.recipe.load import load_component
from gaekit.store.models import Autoencoder, AutoencoderSpec

TOKENIZER, TEACHER = "a GAE tokenizer", "a semantic teacher of GAE's"
_GAE_NEEDED = ("foundation_encoder.patch_embed.weight", "foundation_encoder.pos_embed", "decoder.pos_embed")
"""What the sizes of a tokenizer are read off."""
GAE_MULTIPLE = 256
"""To a multiple of which GAE rounds the hidden width of its gated MLPs up."""
TEACHER_HEAD = 64
"""Channels of an attention head of GAE's semantic teacher."""


def read_gae(state: State, options: Options, registry: Registry) -> Autoencoder:
    """GAE's tokenizer. Raises ArtifactError for what is missing, unexpected or not said."""
    encoder, decoder = gae.tokenizer_from_published(state)
    for name in _GAE_NEEDED:
        tensor(state, name, TOKENIZER)
    patch = tensor(encoder, "patch_embed.proj.weight", TOKENIZER)
    adapter = encoder["adapter.weight"]
    stride, grid = patch.shape[2], side_of(tensor(encoder, "trunk.pos_embed", TOKENIZER).shape[1], "pos_embed")
    parts = {
        "encoder": {**_vit(encoder, options.heads, "--heads"), "hidden": adapter.shape[1]},
        "decoder": _vit(decoder, options.decoder_heads or options.heads, "--decoder-heads"),
        "regularizer": {"use": "rms_norm"},
    }
    sizes = {"image_size": grid * stride, "stride": stride, "latent_dim": adapter.shape[0]}
    model = empty({**sizes, **parts}, registry, "imported gae")
    given = gae.tokenizer_to_published(encoder, decoder)
    check_names(given, write_autoencoder("gae", model.state_dict()), kind=TOKENIZER)
    load(model, both(encoder, decoder))
    return model


def _vit(half: Mapping[str, Tensor], heads: int | None, option: str) -> dict[str, Any]:
    """Settings of one half of a GAE tokenizer."""
    width = tensor(half, "trunk.pos_embed", TOKENIZER).shape[2]
    depth = depth_of(half, "trunk.blocks.", TOKENIZER)
    stem = "trunk.blocks."
    settings: dict[str, Any] = {"mlp": "gelu", "mlp_multiple": GAE_MULTIPLE}
    if (gated := in_some_block(half, stem, "mlp.w3.weight")) is not None:
        hidden = gated.shape[1]
        settings = {"mlp": "swiglu", **_gated(width, hidden)}
    else:
        hidden = of_blocks(half, stem, "mlp.fc1.weight", TOKENIZER).shape[0]
        settings |= {"mlp_ratio": ratio_of(width, hidden, lambda ratio: int(width * ratio))}
    bias = in_some_block(half, stem, "attn.qkv.bias") is not None
    shape = {"depth": depth, "width": width, "heads": heads_of(depth, width, head_dim=None, given=heads, option=option)}
    return {"use": "vit", **shape, **settings, "bias": bias}


def _gated(width: int, hidden: int) -> dict[str, Any]:
    """Ratio and multiple for a hidden width: the published ones where they make it, else without rounding."""
    if gated_width(width, 4.0, multiple=GAE_MULTIPLE) == hidden:
        return {"mlp_ratio": 4.0, "mlp_multiple": GAE_MULTIPLE}
    return {"mlp_ratio": ratio_of(width, hidden, lambda ratio: gated_width(width, ratio)), "mlp_multiple": 1}


def read_ldm_vae(state: State, options: Options, registry: Registry) -> Autoencoder:
    """Latent diffusion's autoencoder, in its own names or those of diffusers.

    Its regularizer is `kl` where it has two moments a channel, `none` where it has one.

    Raises ArtifactError for what is missing, unexpected or not said.
    """
    if options.image_size is None:
        raise ArtifactError(ldm_vae.NO_SIZE)
    in_diffusers = diffusers_vae.is_diffusers(state)
    published = diffusers_vae.to_published(state) if in_diffusers else state
    sizes = ldm_vae.sizes_of_published(published, resolution=options.image_size)
    regularizer = "kl" if sizes.moments == 2 * sizes.latent_dim else "none"
    spec = {
        "image_size": options.image_size,
        "stride": sizes.stride,
        "latent_dim": sizes.latent_dim,
        "encoder": sizes.encoder,
        "decoder": sizes.decoder,
        "regularizer": {"use": regularizer},
    }
    model = empty(spec, registry, "imported ldm-vae")
    encoder, decoder = ldm_vae.autoencoder_from_published(published)
    given = ldm_vae.autoencoder_to_published(encoder, decoder)
    expected = write_autoencoder("ldm-vae", model.state_dict())
    if in_diffusers:
        given, expected = diffusers_vae.renewed(state), diffusers_vae.from_published(expected)
    check_names(given, expected, kind="an autoencoder of latent diffusion")
    load(model, both(encoder, decoder))
    return model


def read_semantic(state: State, options: Options, registry: Registry) -> Aligner:
    """GAE's semantic teacher as an aligner `latent`. Raises ArtifactError for what is missing or unexpected."""
    ours = semantic_teacher.from_gae(state)
    feature_dim, latent_dim = ours["semantic.from_latent.weight"].shape
    squeeze, positions = ours["semantic.to_latent.weight"], ours["semantic.positions_down"]
    inner = ours.get("semantic.blocks.0.mlp.w3.weight")
    settings: dict[str, Any] = {
        "use": "latent",
        "window": side_of(squeeze.shape[0] // latent_dim, "to_latent.weight"),
        "decoder_depth": len({key.split(".")[2] for key in ours if key.startswith("semantic.blocks.")}),
        "head_dim": feature_dim // options.heads if options.heads else TEACHER_HEAD,
    }
    if inner is not None:
        settings |= _gated(feature_dim, inner.shape[1])
    config = load_component("aligner", settings, registry, source="imported gae-semantic")
    grid = side_of(positions.shape[1], "pos_embed_pro")
    with torch.device("meta"):
        aligner = build(Aligner, config, registry, feature_dim=feature_dim, latent_dim=latent_dim, hidden_dim=1,
                        grid=grid)  # fmt: skip
    check_names(semantic_teacher.to_gae(ours), semantic_teacher.to_gae(aligner.state_dict()), kind=TEACHER)
    load(aligner, ours)
    return aligner


def write_autoencoder(name: str, weights: Mapping[str, Tensor]) -> State:
    """The published state of an autoencoder's weights, in the names of the format `name`."""
    halves = [{k.removeprefix(f"{half}."): v for k, v in weights.items() if k.startswith(f"{half}.")}
              for half in ("encoder", "decoder")]  # fmt: skip
    return gae.tokenizer_to_published(*halves) if name == "gae" else ldm_vae.autoencoder_to_published(*halves)


def empty(spec: Mapping[str, Any], registry: Registry, source: str) -> Autoencoder:
    """An autoencoder without memory, to be given its weights."""
    with torch.device("meta"):
        return Autoencoder(AutoencoderSpec.from_json(spec, registry, source), registry)


def both(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> State:
    """The state of an autoencoder from those of its halves."""
    halves = {"encoder": encoder, "decoder": decoder}
    return {f"{name}.{key}": value for name, half in halves.items() for key, value in half.items()}
