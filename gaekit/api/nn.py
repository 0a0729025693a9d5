"""The building blocks that networks of plugins may be made of: norms, attention, perceptrons, embeddings, the blocks of
vision transformers, of diffusion transformers and of convolutional autoencoders, and what `runtime` asks of blocks."""

from gaekit.nn.attention import Attention
from gaekit.nn.conv import Downsample, ResidualBlock, ResNetLevel, SpatialAttention, Upsample, group_norm, middle_blocks
from gaekit.nn.dit import FinalLayer, ModulatedBlock, Modulation
from gaekit.nn.embed import (
    FourierEmbedder,
    LabelEmbedder,
    PatchEmbed,
    RotaryPositions,
    TimestepEmbedder,
    sincos_positions,
    to_grid,
    to_tokens,
    unpatchify,
)
from gaekit.nn.frozen import FrozenModule
from gaekit.nn.mlp import MLP, SwiGLU, gated_width
from gaekit.nn.norm import RMSNorm, rms_normalize
from gaekit.nn.ranks import pooled_over_ranks
from gaekit.nn.regions import run_block
from gaekit.nn.vit import LayerFactory, Rope, TransformerBlock, xavier_linears

__all__ = [
    "MLP",
    "Attention",
    "Downsample",
    "FinalLayer",
    "FourierEmbedder",
    "FrozenModule",
    "LabelEmbedder",
    "LayerFactory",
    "ModulatedBlock",
    "Modulation",
    "PatchEmbed",
    "RMSNorm",
    "ResNetLevel",
    "ResidualBlock",
    "Rope",
    "RotaryPositions",
    "SpatialAttention",
    "SwiGLU",
    "TimestepEmbedder",
    "TransformerBlock",
    "Upsample",
    "gated_width",
    "group_norm",
    "middle_blocks",
    "pooled_over_ranks",
    "rms_normalize",
    "run_block",
    "sincos_positions",
    "to_grid",
    "to_tokens",
    "unpatchify",
    "xavier_linears",
]
