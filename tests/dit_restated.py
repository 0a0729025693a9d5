"""The network of DiT and SiT as a function of its published tensors, to try the mathematics around it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from parity_helpers import Tensors
from torch import Tensor

from gaekit.values import Prediction


class Network:
    """(x, t, label) -> Prediction; t is whatever the published model embeds, of float or integer type."""

    def __init__(self, config: dict[str, Any], state: Tensors):
        self.config, self.state = config, state

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def condition(self, t: Tensor, label: Tensor) -> Tensor:
        angle = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        hidden = F.silu(self.linear("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], -1)))
        return F.silu(self.linear("t_embedder.mlp.2", hidden) + self.state["y_embedder.embedding_table.weight"][label])

    def norm(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def block(self, name: str, h: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.linear(f"{name}.adaLN_modulation.1", c).chunk(6, 1)
        qkv = self.linear(f"{name}.attn.qkv", self.norm(h, shift, scale))
        q, k, v = qkv.reshape(*h.shape[:2], 3, self.config["num_heads"], -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate[:, None] * self.linear(f"{name}.attn.proj", mixed)
        hidden = F.gelu(self.linear(f"{name}.mlp.fc1", self.norm(h, shift2, scale2)), approximate="tanh")
        return h + gate2[:, None] * self.linear(f"{name}.mlp.fc2", hidden)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Prediction:
        patch, state = self.config["patch_size"], self.state
        tokens = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=patch)
        h, c = tokens.flatten(2).transpose(1, 2) + state["pos_embed"], self.condition(t, label)
        for index in range(self.config["depth"]):
            h = self.block(f"blocks.{index}", h, c)
        h = self.linear(
            "final_layer.linear", self.norm(h, *self.linear("final_layer.adaLN_modulation.1", c).chunk(2, 1))
        )
        h = h.reshape(len(x), *tokens.shape[2:], patch, patch, -1)
        image = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        first, second = image[:, : x.shape[1]], image[:, x.shape[1] :]
        return Prediction(first, second)
