"""A LightningDiT and its training loop written out plainly, as one would without a framework: what `training_step.py`
holds gaekit against. Weights have the published names, so that both start from the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norm(nn.Module):
    """RMSNorm with a scale."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width)."""
        return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x) * self.weight


class SelfAttention(nn.Module):
    """Attention with rotary positions."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, N, width)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (y * cos + torch.stack((-y[..., 1::2], y[..., ::2]), -1).flatten(-2) * sin for y in (q, k))
        out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int):
        super().__init__()
        hidden = int(4 * width * 2 / 3)
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width)."""
        one, two = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(one) * two)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block under six vectors of the condition."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            Norm(width),
            SelfAttention(width, heads),
            Norm(width),
            Gated(width),
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, N, width)."""
        a, b, gate, d, e, other = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm1(x) * (1 + b) + a, cos, sin)
        return x + other * self.mlp(self.norm2(x) * (1 + e) + d)  # type: ignore[no-any-return]


class Final(nn.Module):
    """The last layer."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.norm_final, self.linear = Norm(width), nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, channels)."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)  # type: ignore[no-any-return]


class Embed(nn.Module):
    """What a named child's parameters hang on."""


class Plain(nn.Module):
    """LightningDiT of patch 1 without absolute positions switched off."""

    def __init__(self, depth: int, width: int, heads: int, channels: int, grid: int, classes: int):
        super().__init__()
        self.grid = grid
        self.x_embedder, self.t_embedder, self.y_embedder = Embed(), Embed(), Embed()
        self.x_embedder.proj = nn.Conv2d(channels, width, 1)
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.y_embedder.embedding_table = nn.Embedding(classes + 1, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.feat_rope = Embed()
        for name in ("freqs_cos", "freqs_sin"):
            self.feat_rope.register_buffer(name, torch.zeros(grid * grid, width // heads))
        self.final_layer = Final(width, channels)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """The velocity (B, channels, grid, grid)."""
        tokens = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        rate = torch.exp(-math.log(10000) * torch.arange(128, device=t.device) / 128)
        angle = t[:, None] * rate
        c = self.t_embedder.mlp(torch.cat([angle.cos(), angle.sin()], -1)) + self.y_embedder.embedding_table(label)
        for block in self.blocks:
            tokens = block(tokens, c, self.feat_rope.freqs_cos, self.feat_rope.freqs_sin)
        out = self.final_layer(tokens, c)
        return out.transpose(1, 2).reshape(len(x), -1, self.grid, self.grid)  # type: ignore[no-any-return]


def train(
    network: Callable[..., Tensor], parameters: list[nn.Parameter], latent: Tensor, classes: int, steps: int, low: bool
) -> None:
    """Velocity and cosine losses, clipping, AdamW, an average of the weights, the loss looked at once in ten steps."""
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    averages = [p.detach().clone() for p in parameters]
    for step in range(steps):
        t = torch.rand(len(latent), device=latent.device)
        noise = torch.randn_like(latent)
        label = torch.randint(classes, (len(latent),), device=latent.device)
        level = t[:, None, None, None]
        with torch.autocast(latent.device.type, dtype=torch.bfloat16, enabled=low):
            out = network(level * latent + (1 - level) * noise, t, label).float()
        target = latent - noise
        loss = (out - target).pow(2).mean() + (1 - F.cosine_similarity(out, target, dim=1)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter, 1e-4)
        if step % 10 == 9:
            loss.item()
