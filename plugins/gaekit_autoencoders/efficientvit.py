"""Blocks of DC-AE (arXiv 2410.10733): residual convolutions, multi-scale linear attention as in EfficientViT (arXiv
2205.14756), and changes of resolution beside which the channels themselves are folded or unfolded.

Shape suffixes: B batch, C channels, H W grid, h heads, d channels of a head, N positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.api.nn import rms_normalize

EPS = 1e-5
"""What norms add to a mean square or a variance."""
Activation = Literal["silu", "relu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"silu": F.silu, "relu": F.relu}


class ChannelRMSNorm(nn.Module):
    """RMS normalisation over the channels of each position, with a scale and a shift a channel."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), of x's dtype."""
        scale, shift = (value[:, None, None] for value in (self.weight, self.bias))
        return (rms_normalize(x_BCHW, dim=1, eps=EPS) * scale + shift).type_as(x_BCHW)


class KeptBatchNorm(nn.Module):
    """Batch normalisation by statistics that stay as they were loaded; scale and shift are trained.

    A decoder whose numbers hung on the other images of its batch would decode an image otherwise in each.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return F.batch_norm(x_BCHW, self.running_mean, self.running_var, self.weight, self.bias, eps=EPS)


class ConvResidual(nn.Module):
    """x + norm(conv2(activation(conv1(x)))), convolutions of 3 x 3."""

    def __init__(self, width: int, *, norm: nn.Module, activation: Activation):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = norm

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x_BCHW + self.norm(self.conv2(self.activation(self.conv1(x_BCHW))))  # type: ignore[no-any-return]


class LinearAttention(nn.Module):
    """x + norm(attention(x)) among all positions by kernels relu(q) relu(k) in place of a softmax, in float32.

    Besides queries, keys and values of each position there are those of its neighbourhoods, a set of heads for each of
    `scales`: a depthwise convolution of that side and a projection within the heads.
    """

    def __init__(self, width: int, *, head_dim: int, scales: tuple[int, ...], norm: nn.Module):
        super().__init__()
        heads = width // head_dim
        inner = 3 * heads * head_dim
        self.head_dim = head_dim
        self.qkv = nn.Conv2d(width, inner, 1, bias=False)
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inner, inner, side, padding=side // 2, groups=inner, bias=False),
                nn.Conv2d(inner, inner, 1, groups=3 * heads, bias=False),
            )
            for side in scales
        )
        self.proj = nn.Conv2d(heads * head_dim * (1 + len(scales)), width, 1, bias=False)
        self.norm = norm

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        qkv = self.qkv(x_BCHW)
        all_scales = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        with torch.autocast(device_type=x_BCHW.device.type, enabled=False):
            batch, _, height, width = all_scales.shape
            qkv_BhdN = all_scales.float().reshape(batch, -1, 3 * self.head_dim, height * width)
            query, key, value = qkv_BhdN.chunk(3, dim=2)
            mixed = _attend(query, key, value).reshape(batch, -1, height, width)
        return x_BCHW + self.norm(self.proj(mixed.type_as(qkv)))  # type: ignore[no-any-return]


def _attend(query_BhdN: Tensor, key_BhdN: Tensor, value_BhdN: Tensor, eps: float = 1e-15) -> Tensor:
    """sum_j v_j (relu(k_j) . relu(q_i)) / sum_j (relu(k_j) . relu(q_i)), by the cheaper order of the two products."""
    query, key = F.relu(query_BhdN), F.relu(key_BhdN)
    if query.shape[3] > query.shape[2]:
        summed = F.pad(value_BhdN, (0, 0, 0, 1), value=1.0) @ key.transpose(2, 3) @ query
        return summed[:, :, :-1] / (summed[:, :, -1:] + eps)
    weight = key.transpose(2, 3) @ query
    return value_BhdN @ (weight / (weight.sum(dim=2, keepdim=True) + eps))


class GatedConv(nn.Module):
    """x + norm(point(a * silu(b))), (a, b) depthwise 3 x 3 convolutions of four times the channels each."""

    def __init__(self, width: int, *, expansion: int = 4):
        super().__init__()
        hidden = 2 * expansion * width
        self.inverted = nn.Conv2d(width, hidden, 1)
        self.depth = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.point = nn.Conv2d(hidden // 2, width, 1, bias=False)
        self.norm = ChannelRMSNorm(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        value, gate = self.depth(F.silu(self.inverted(x_BCHW))).chunk(2, dim=1)
        return x_BCHW + self.norm(self.point(value * F.silu(gate)))  # type: ignore[no-any-return]


class EfficientViTBlock(nn.Sequential):
    """Linear attention among positions, then a gated convolution."""

    def __init__(self, width: int, *, head_dim: int, scales: tuple[int, ...], norm: nn.Module):
        super().__init__(LinearAttention(width, head_dim=head_dim, scales=scales, norm=norm), GatedConv(width))


class Halve(nn.Module):
    """Half the height and width, by a convolution of stride 2, or (`unshuffle`) one after which blocks of 2 x 2
    positions become channels. Its `shortcut` is the input's blocks as channels, averaged in groups."""

    def __init__(self, width: int, out: int, *, unshuffle: bool, shortcut: bool = True):
        super().__init__()
        self.out, self.unshuffle, self.shortcut = out, unshuffle, shortcut
        self.conv = nn.Conv2d(width, out // 4 if unshuffle else out, 3, stride=1 if unshuffle else 2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H / 2, W / 2)."""
        half = self.conv(x_BCHW)
        half = F.pixel_unshuffle(half, 2) if self.unshuffle else half
        return half + average_channels(F.pixel_unshuffle(x_BCHW, 2), self.out) if self.shortcut else half


class Double(nn.Module):
    """Twice the height and width, by a convolution whose channels become blocks of 2 x 2 positions, or
    (`interpolate`) one of positions repeated. Its `shortcut` is the input's channels, repeated, as blocks."""

    def __init__(self, width: int, out: int, *, interpolate: bool, shortcut: bool = True):
        super().__init__()
        self.out, self.interpolate, self.shortcut = out, interpolate, shortcut
        self.conv = nn.Conv2d(width, out if interpolate else 4 * out, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, 2 H, 2 W)."""
        if self.interpolate:
            doubled = self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))
        else:
            doubled = F.pixel_shuffle(self.conv(x_BCHW), 2)
        if not self.shortcut:
            return doubled  # type: ignore[no-any-return]
        return doubled + F.pixel_shuffle(repeat_channels(x_BCHW, 4 * self.out), 2)  # type: ignore[no-any-return]


def average_channels(x_BCHW: Tensor, out: int) -> Tensor:
    """Neighbouring channels averaged to `out`, a divisor of C."""
    batch, _, height, width = x_BCHW.shape
    return x_BCHW.reshape(batch, out, -1, height, width).mean(dim=2)


def repeat_channels(x_BCHW: Tensor, out: int) -> Tensor:
    """Each channel repeated, to `out`, a multiple of C."""
    return x_BCHW.repeat_interleave(out // x_BCHW.shape[1], dim=1)
