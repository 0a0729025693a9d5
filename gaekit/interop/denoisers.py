"""Published diffusion transformers as gaekit's: settings by the shapes of their tensors, weights under our names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gaekit.api import Denoiser
from gaekit.errors import ArtifactError
from gaekit.interop import dit, dit_dh, gae, sit
from gaekit.interop.fitting import check_names, load
from gaekit.interop.formats import Options
from gaekit.interop.reading import State
from gaekit.interop.shapes import (
    classes_of,
    depth_of,
    heads_of,
    in_some_block,
    of_blocks,
    ratio_of,
    side_of,
    tensor,
)
from gaekit.plugins import Registry
from gaekit.recipe.load import load_component
from gaekit.store.models import DenoiserSpec

TABLE = "y_embedder.embedding_table.weight"
"""The label embeddings, of the same name in all of them: K rows and one for no class."""


@dataclass(frozen=True)
class Published:
    """How a kind of denoiser is read and written: its settings by its tensors, its names from and to ours."""

    kind: str
    settings: Callable[[State, Options], dict[str, Any]]
    from_published: Callable[[State, Options], State]
    to_published: Callable[[Mapping[str, Tensor], DenoiserSpec], State]
    path: Literal["linear", "ddpm"] = "linear"


def read_denoiser(
    name: str, state: State, options: Options, registry: Registry, names: list[str] | None = None
) -> tuple[Denoiser, DenoiserSpec]:
    """The denoiser in a published state of the format `name`, and its spec with the class names.

    Raises ArtifactError for what is missing, unexpected or not said.
    """
    published = PUBLISHED[name]
    table = tensor(state, TABLE, published.kind)
    classes, has_null = classes_of(len(table), names)
    config = load_component("denoiser", published.settings(state, options), registry, source=f"imported {name}")
    channels = tensor(state, "x_embedder.proj.weight", published.kind).shape[1]
    grid = _grid(state, options, published.kind)
    spec = DenoiserSpec(config, channels, grid, classes, options.path or published.path)
    with torch.device("meta"):
        network = spec.build(registry)
    if not has_null:  # gaekit's table always has the row; here nothing was learnt for it
        state = {**state, TABLE: torch.cat([table, torch.zeros_like(table[:1])])}
    ours = published.from_published(state, options)
    check_names(
        published.to_published(ours, spec), published.to_published(network.state_dict(), spec), kind=published.kind
    )
    load(network, ours)
    return network, spec


def write_denoiser(name: str, weights: Mapping[str, Tensor], spec: DenoiserSpec, *, null_row: bool = True) -> State:
    """The published state of gaekit's weights; without `null_row` the table loses its last row again."""
    state = PUBLISHED[name].to_published(weights, spec)
    if not null_row:
        state[TABLE] = state[TABLE][:-1].clone()
    return state


def _grid(state: State, options: Options, kind: str) -> int:
    """The side of the latents: by the positions, or as said."""
    patch = tensor(state, "x_embedder.proj.weight", kind).shape[2]
    tokens = {"pos_embed": 1, "feat_rope.freqs_cos": 0, "enc_feat_rope.freqs_cos": 0}
    found = next((side_of(state[key].shape[axis], key) * patch for key, axis in tokens.items() if key in state), None)
    if found is None and options.grid is None:
        raise ArtifactError("no tensor tells the side of the latents; say it with --grid N (256 px of stride 16: 16)")
    if found is not None and options.grid not in (None, found):
        raise ArtifactError(f"--grid {options.grid}: the file's positions are those of latents of side {found}")
    return found or options.grid or 0


def _sizes(state: State, embedder: str, kind: str) -> tuple[int, int, int]:
    """(width, channels, patch) of a patch embedding."""
    weight = tensor(state, f"{embedder}.proj.weight", kind)
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
        raise ArtifactError(f"{embedder}.proj.weight of shape {tuple(weight.shape)} is no embedding of square patches")
    return weight.shape[0], weight.shape[1], weight.shape[2]


def _plain(state: State, options: Options, use: str, kind: str) -> dict[str, Any]:
    """What DiT and SiT have in common."""
    width, channels, patch = _sizes(state, "x_embedder", kind)
    depth = depth_of(state, "blocks.", kind)
    hidden = of_blocks(state, "blocks.", "mlp.fc1.weight", kind).shape[0]
    out = tensor(state, "final_layer.linear.weight", kind).shape[0]
    if out not in (channels * patch**2, 2 * channels * patch**2):
        raise ArtifactError(f"final_layer.linear.weight makes {out} numbers a patch; {channels * patch**2} would be "
                            f"one a value, {2 * channels * patch**2} with the variance")  # fmt: skip
    return {
        "use": use,
        "depth": depth,
        "width": width,
        "heads": heads_of(depth, width, head_dim=None, given=options.heads),
        "patch": patch,
        "mlp_ratio": ratio_of(width, hidden, lambda ratio: int(width * ratio)),
        "learn_sigma": out == 2 * channels * patch**2,
    }


def _dit(state: State, options: Options) -> dict[str, Any]:
    return _plain(state, options, "dit", "a DiT")


def _sit(state: State, options: Options) -> dict[str, Any]:
    return {**_plain(state, options, "sit", "a SiT"), "predicts": options.predicts or "velocity"}


def _block(state: State, width: int, kind: str) -> dict[str, Any]:
    """The switches of LightningDiT's blocks, which leave their marks in each."""
    gated = in_some_block(state, "blocks.", "mlp.w3.weight") is not None
    if gated:
        hidden = of_blocks(state, "blocks.", "mlp.w3.weight", kind).shape[1]
        ratio = ratio_of(width, hidden, lambda ratio: int(2 / 3 * int(width * ratio)))
    else:
        hidden = of_blocks(state, "blocks.", "mlp.fc1.weight", kind).shape[0]
        ratio = ratio_of(width, hidden, lambda ratio: int(width * ratio))
    return {
        "mlp": "swiglu" if gated else "mlp",
        "mlp_ratio": ratio,
        "norm": "layer" if in_some_block(state, "blocks.", "norm1.weight") is None else "rms",
        "qk_norm": in_some_block(state, "blocks.", "attn.q_norm.weight") is not None,
        "wo_shift": of_blocks(state, "blocks.", "adaLN_modulation.1.weight", kind).shape[0] == 4 * width,
    }


def _absolute(state: State, options: Options) -> bool:
    if options.absolute_positions and "pos_embed" not in state:
        raise ArtifactError("--absolute-positions, but the file holds none (pos_embed)")
    return "pos_embed" in state if options.absolute_positions is None else options.absolute_positions


def _lightning(state: State, options: Options) -> dict[str, Any]:
    kind = "a LightningDiT"
    width, _, patch = _sizes(state, "x_embedder", kind)
    depth = depth_of(state, "blocks.", kind)
    rope = state.get("feat_rope.freqs_cos")
    scale = in_some_block(state, "blocks.", "attn.q_norm.weight")
    head_dim = rope.shape[1] if rope is not None else scale.shape[0] if scale is not None else None
    return {
        "use": "lightning_dit",
        "depth": depth,
        "width": width,
        "heads": heads_of(depth, width, head_dim=head_dim, given=options.heads),
        "patch": patch,
        "rope": rope is not None,
        "absolute_positions": _absolute(state, options),
        **_block(state, width, kind),
    }


def _dit_dh(state: State, options: Options) -> dict[str, Any]:
    kind = "a DiT-DH"
    width, _, patch = _sizes(state, "s_embedder", kind)
    decoder_width, _, decoder_patch = _sizes(state, "x_embedder", kind)
    if patch != decoder_patch:
        raise ArtifactError(f"its encoder has patches of {patch}, its head of {decoder_patch}; gaekit's dit_dh has one")
    depth = depth_of(state, "blocks.", kind)
    encoder_depth = depth - _decoder_depth(state, options, depth, decoder_width)
    rope = [state.get(f"{half}_feat_rope.freqs_cos") for half in ("enc", "dec")]
    scale = [state.get(f"blocks.{index}.attn.q_norm.weight") for index in (0, encoder_depth)]
    dims = [r.shape[1] if r is not None else s.shape[0] if s is not None else None
            for r, s in zip(rope, scale, strict=True)]  # fmt: skip
    return {
        "use": "dit_dh",
        "depth": encoder_depth,
        "width": width,
        "heads": heads_of(encoder_depth, width, head_dim=dims[0], given=options.heads),
        "decoder_depth": depth - encoder_depth,
        "decoder_width": decoder_width,
        "decoder_heads": _decoder_heads(depth - encoder_depth, decoder_width, dims[1], options),
        "patch": patch,
        "rope": rope[0] is not None,
        "absolute_positions": _absolute(state, options),
        "convention": dit_dh.PUBLISHED,
        **_block(state, width, kind),
    }


def _decoder_heads(depth: int, width: int, head_dim: int | None, options: Options) -> int:
    given = options.decoder_heads or (16 if (depth, width) == (2, 2048) and head_dim is None else None)
    return heads_of(depth, width, head_dim=head_dim, given=given, option="--decoder-heads")


def _decoder_depth(state: State, options: Options, depth: int, width: int) -> int:
    """How many of the blocks are the head's: those of its width, or as said where both widths are one."""
    if "s_projector.weight" in state:
        wide = [i for i in range(depth) if state.get(f"blocks.{i}.attn.proj.weight", torch.empty(0)).shape[0] == width]
        return len(wide)
    if options.decoder_depth is None or not 0 < options.decoder_depth < depth:
        raise ArtifactError(f"encoder and head have one width, so the tensors do not tell which of the {depth} blocks "
                            f"are the head's; say it with --decoder-depth N")  # fmt: skip
    return options.decoder_depth


def _without_unused(state: State, options: Options) -> State:
    """Published networks may hold positions that they do not use."""
    return state if _absolute(state, options) else {key: v for key, v in state.items() if key != "pos_embed"}


def _lightning_from(state: State, options: Options) -> State:
    return gae.denoiser_from_published(state, absolute_positions=_absolute(state, options))


def _lightning_to(weights: Mapping[str, Tensor], spec: DenoiserSpec) -> State:
    return gae.denoiser_to_published(weights, tokens=(spec.grid // spec.denoiser.model_dump()["patch"]) ** 2)


def _dit_dh_to(weights: Mapping[str, Tensor], spec: DenoiserSpec) -> State:
    return dit_dh.to_published(weights, convention=spec.denoiser.model_dump()["convention"])


PUBLISHED: dict[str, Published] = {
    "lightningdit": Published("a LightningDiT", _lightning, _lightning_from, _lightning_to),
    "dit": Published(
        "a DiT", _dit, lambda s, o: dit.from_published(s), lambda w, spec: dit.to_published(w), path="ddpm"
    ),
    "sit": Published("a SiT", _sit, lambda s, o: sit.from_published(s), lambda w, spec: sit.to_published(w)),
    "dit_dh": Published("a DiT-DH", _dit_dh, lambda s, o: dit_dh.from_published(_without_unused(s, o)), _dit_dh_to),
}
"""The denoisers by the names of their formats."""
