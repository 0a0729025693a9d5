"""LightningDiT's and DiT-DH's networks as functions of published tensors, with all their switches.

Written from the papers, sharing nothing with gaekit but torch: what files with other switches are made by.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]


class Restated:
    """Functions of `state` under the switches of `config`, which are those of a fixture."""

    def __init__(self, config: dict[str, Any], state: Tensors):
        self.config, self.state = config, state

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        if not self.config["use_rmsnorm"]:
            return F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.state[f"{name}.weight"]

    def head_norm(self, name: str, x: Tensor) -> Tensor:
        if not self.config["use_qknorm"]:
            return x
        if self.config["use_rmsnorm"]:
            return self.norm(name, x)
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-5)

    def turned(self, x: Tensor, rope: str) -> Tensor:
        if not self.config["use_rope"]:
            return x
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        quarter = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
        return x * self.state[f"{rope}.freqs_cos"] + quarter * self.state[f"{rope}.freqs_sin"]

    def attention(self, name: str, x: Tensor, heads: int, rope: str) -> Tensor:
        qkv = self.linear(f"{name}.qkv", x).reshape(*x.shape[:2], 3, heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self.head_norm(f"{name}.q_norm", q), self.head_norm(f"{name}.k_norm", k)
        q, k = self.turned(q, rope), self.turned(k, rope)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.linear(f"{name}.proj", (weights @ v).transpose(1, 2).flatten(2))

    def mlp(self, name: str, x: Tensor) -> Tensor:
        if not self.config["use_swiglu"]:
            return self.linear(f"{name}.fc2", F.gelu(self.linear(f"{name}.fc1", x), approximate="tanh"))
        gate, value = self.linear(f"{name}.w12", x).chunk(2, -1)
        return self.linear(f"{name}.w3", F.silu(gate) * value)

    def block(self, index: int, x: Tensor, condition: Tensor, heads: int, rope: str) -> Tensor:
        name = f"blocks.{index}"
        parts = self.linear(f"{name}.adaLN_modulation.1", F.silu(condition))
        if self.config["wo_shift"]:
            scale, gate, scale2, gate2 = parts.chunk(4, -1)
            shift = shift2 = torch.zeros(())
        else:
            shift, scale, gate, shift2, scale2, gate2 = parts.chunk(6, -1)
        x = x + gate * self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x) * (1 + scale) + shift, heads, rope)
        return x + gate2 * self.mlp(f"{name}.mlp", self.norm(f"{name}.norm2", x) * (1 + scale2) + shift2)

    def embed(self, name: str, x: Tensor) -> Tensor:
        weight = self.state[f"{name}.proj.weight"]
        return F.conv2d(x, weight, self.state[f"{name}.proj.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)

    def out(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.linear("final_layer.adaLN_modulation.1", F.silu(condition)).chunk(2, -1)
        x = self.linear("final_layer.linear", self.norm("final_layer.norm_final", x) * (1 + scale) + shift)
        patch = self.config["patch_size"]
        side = self.config["input_size"] // patch
        x = x.reshape(len(x), side, side, patch, patch, -1)
        return torch.einsum("bhwpqc->bchpwq", x).flatten(4, 5).flatten(2, 3)

    def label(self, y: Tensor) -> Tensor:
        return self.state["y_embedder.embedding_table.weight"][y]

    def lightning_dit(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        angle = t[:, None] * 10000 ** (-torch.arange(128) / 128)
        time = F.silu(self.linear("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], -1)))
        condition = (self.linear("t_embedder.mlp.2", time) + self.label(y))[:, None]
        tokens = self.embed("x_embedder", x)
        if self.config["use_abs_pos"]:
            tokens = tokens + self.state["pos_embed"]
        for index in range(self.config["depth"]):
            tokens = self.block(index, tokens, condition, self.config["num_heads"], "feat_rope")
        return self.out(tokens, condition)

    def ddt(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        depth, heads = self.config["depth"], self.config["num_heads"]
        angle = 2 * math.pi * t[:, None] * self.state["t_embedder.W"]
        time = F.silu(self.linear("t_embedder.mlp.0", torch.cat([angle.sin(), angle.cos()], -1)))
        time = self.linear("t_embedder.mlp.2", time)[:, None]
        tokens = self.embed("s_embedder", x)
        if self.config["use_pos_embed"]:
            tokens = tokens + self.state["pos_embed"]
        condition = F.silu(time + self.label(y)[:, None])
        for index in range(depth[0]):
            tokens = self.block(index, tokens, condition, heads[0], "enc_feat_rope")
        condition = F.silu(time + tokens)
        if "s_projector.weight" in self.state:
            condition = self.linear("s_projector", condition)
        tokens = self.embed("x_embedder", x)
        for index in range(depth[0], sum(depth)):
            tokens = self.block(index, tokens, condition, heads[1], "dec_feat_rope")
        return self.out(tokens, condition)
