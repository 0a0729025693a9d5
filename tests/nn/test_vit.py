import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from gaekit.nn.mlp import MLP, SwiGLU
from gaekit.nn.norm import RMSNorm
from gaekit.nn.vit import TransformerBlock, xavier_linears


def test_a_block_is_torch_pre_norm_encoder_layer():
    theirs = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, activation=partial(F.gelu, approximate="tanh"), batch_first=True, norm_first=True
    )
    ours = TransformerBlock(16, 4, tokens=6, norm=nn.LayerNorm, mlp=partial(MLP, hidden=32))
    ours.load_state_dict(
        {
            "attn.qkv.weight": theirs.self_attn.in_proj_weight,
            "attn.qkv.bias": theirs.self_attn.in_proj_bias,
            "attn.proj.weight": theirs.self_attn.out_proj.weight,
            "attn.proj.bias": theirs.self_attn.out_proj.bias,
            "mlp.fc1.weight": theirs.linear1.weight,
            "mlp.fc1.bias": theirs.linear1.bias,
            "mlp.fc2.weight": theirs.linear2.weight,
            "mlp.fc2.bias": theirs.linear2.bias,
            **{f"norm{i}.{k}": getattr(getattr(theirs, f"norm{i}"), k) for i in (1, 2) for k in ("weight", "bias")},
        }
    )
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_a_block_without_bias_and_affine_norms_has_four_matrices():
    block = TransformerBlock(
        8, 2, tokens=4, norm=partial(RMSNorm, affine=False), mlp=partial(SwiGLU, hidden=8, bias=False), bias=False
    )
    names = {name for name, _ in block.named_parameters()}
    assert names == {"attn.qkv.weight", "attn.proj.weight", "mlp.w12.weight", "mlp.w3.weight"}


def test_linear_layers_start_xavier_uniform():
    layer = nn.Linear(100, 50)
    xavier_linears(nn.Sequential(layer))
    bound = math.sqrt(6 / 150)
    assert 0.98 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any()
