"""Multi-head self-attention, and the choice of what computes it.

`Attention.backend` is a plain attribute; `set_attention` probes and sets it for every attention in a network, once,
before training. Whatever computes it, the numbers are the same up to rounding.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gaekit.errors import GaekitError

Backend = Literal["xformers", "sdpa", "math"]
Requested = Literal["auto", "xformers", "sdpa", "math"]
NOT_INSTALLED = "it is not installed"
"""Why xformers cannot be used where nobody would expect it."""


def attend(query_BNhd: Tensor, key_BNhd: Tensor, value_BNhd: Tensor, backend: Backend) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over tokens, (B, tokens, heads, head_dim) in and out (arXiv 1706.03762)."""
    if backend == "xformers":
        return _xformers(query_BNhd, key_BNhd, value_BNhd)
    query, key, value = (x.transpose(1, 2) for x in (query_BNhd, key_BNhd, value_BNhd))
    if backend == "sdpa":
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    scores = (query @ key.transpose(2, 3)).float() / math.sqrt(query.shape[3])
    return (scores.softmax(dim=3).type_as(value) @ value).transpose(1, 2)


def _xformers(query_BNhd: Tensor, key_BNhd: Tensor, value_BNhd: Tensor) -> Tensor:
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(query_BNhd, key_BNhd, value_BNhd)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention, with norms of queries and keys (arXiv 2302.05442) and rotary positions where wanted.

    `qk_norm(head_dim)` makes the norm of a head's queries, and that of its keys; None leaves them as they are. `tokens`
    is the length that backends are probed at. Raises GaekitError unless `heads` divides `width`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        tokens: int,
        bias: bool = True,
        qk_norm: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        if width % heads:
            raise GaekitError(
                f"heads: {heads} heads cannot share a width of {width}; the width must be a multiple of the heads"
            )
        self.heads, self.head_dim, self.tokens = heads, width // heads, tokens
        self.backend: Backend = "sdpa"
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.q_norm = qk_norm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = qk_norm(self.head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(self, x_BNW: Tensor, rope: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(B, tokens, width) -> (B, tokens, width); `rope` turns queries and keys, (B, tokens, heads, head_dim)."""
        query, key, value = self.qkv(x_BNW).unflatten(2, (3, self.heads, self.head_dim)).unbind(2)
        query, key = self.q_norm(query), self.k_norm(key)
        if rope is not None:
            query, key = rope(query), rope(key)
        # Norms and rotation may widen what autocast made narrow; every backend wants one dtype.
        mixed = attend(query.type_as(value), key.type_as(value), value, self.backend)
        return self.proj(mixed.flatten(2))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Choice:
    """The backend that was taken, and why. `unexpected`: another would have been taken, had it worked: `auto` on CUDA
    takes an xformers that is installed."""

    backend: Backend
    reason: str
    unexpected: bool = False

    def __str__(self) -> str:
        return f"attention by {self.backend} ({self.reason})"


@dataclass
class AttentionProbe:
    """Remembers which sizes xformers was tried at, and how it failed there (None: it works). Held by the caller."""

    failures: dict[tuple[str, torch.dtype, int, int, int], str | None] = field(default_factory=dict)

    def failure(self, device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, tokens: int) -> str | None:
        """Why xformers cannot be used at these sizes, tried once each."""
        key = (str(device), dtype, heads, head_dim, tokens)
        if key not in self.failures:
            self.failures[key] = _try_xformers(device, dtype, heads, head_dim, tokens)
        return self.failures[key]


def choose_backend(
    requested: Requested,
    *,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    head_dim: int,
    tokens: int,
    probe: AttentionProbe | None = None,
) -> Choice:
    """The backend for `requested` at these sizes.

    `auto` is xformers where a real forward and backward pass works, tried once a size and remembered by `probe`, else
    SDPA; which of them is faster is not measured. Raises GaekitError with the reason where xformers is asked for by
    name and cannot be used.
    """
    if requested in ("sdpa", "math"):
        return Choice(requested, "as asked")
    failure = (probe or AttentionProbe()).failure(device, dtype, heads, head_dim, tokens)
    sizes = f"{heads} heads of {head_dim}, {tokens} tokens, {str(dtype).removeprefix('torch.')} on {device}"
    if failure is None:
        return Choice("xformers", f"forward and backward work at {sizes}")
    if requested == "xformers":
        raise GaekitError(
            f"runtime.attention: xformers is asked for and cannot be used with {sizes}: {failure}; "
            "use 'auto', 'sdpa' or 'math', or install an xformers built for this torch and card"
        )
    unexpected = device.type == "cuda" and failure != NOT_INSTALLED
    return Choice("sdpa", f"xformers cannot be used with {sizes}: {failure}", unexpected)


def use_backend(module: nn.Module, backend: Backend) -> None:
    """Set the backend of every `Attention` in `module`."""
    for attention in _attentions(module):
        attention.backend = backend


def set_attention(
    module: nn.Module,
    requested: Requested,
    device: torch.device,
    probe: AttentionProbe,
    dtype: torch.dtype = torch.float32,
) -> Choice | None:
    """Choose one backend that works at all of a network's sizes and set it; None where it has no attention.

    `dtype` is what the attention will run in: bfloat16 under bf16 autocast. Raises as `choose_backend` does.
    """
    choice = None
    for heads, head_dim, tokens in sorted({(a.heads, a.head_dim, a.tokens) for a in _attentions(module)}):
        choice = choose_backend(
            requested, device=device, dtype=dtype, heads=heads, head_dim=head_dim, tokens=tokens, probe=probe
        )
        if requested == "auto" and choice.backend == "sdpa":
            break
    if choice:
        use_backend(module, choice.backend)
    return choice


def _attentions(module: nn.Module) -> Iterator[Attention]:
    return (part for part in module.modules() if isinstance(part, Attention))


def _try_xformers(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, tokens: int) -> str | None:
    """The reason why xformers fails at a forward and a backward pass of these sizes, or None."""
    with _contained() as said:
        try:
            problem = _compare_xformers(device, dtype, heads, head_dim, tokens)
        except (Exception, SystemExit) as error:  # a broken build fails in whatever way it likes
            absent = isinstance(error, ModuleNotFoundError) and error.name == "xformers"
            problem = NOT_INSTALLED if absent else _summary(f"{type(error).__name__}: {error}")
    return problem and "; ".join([*said, problem])


def _compare_xformers(device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, tokens: int) -> str | None:
    # No random numbers: probing must not move the generators that training draws from.
    count = 3 * 2 * tokens * heads * head_dim
    numbers = torch.arange(count, device=device, dtype=torch.float32).mul_(1.618).sin_()
    inputs = numbers.view(3, 2, tokens, heads, head_dim).to(dtype)
    ours, reference = _outcome(inputs, "xformers"), _outcome(inputs, "math")
    for name, got, wanted in zip(("forward", "backward"), ours, reference, strict=True):
        error = (got.float() - wanted.float()).abs().max().item()
        if not error <= 0.03 * (1 + wanted.float().abs().max().item()):
            return f"its {name} pass is wrong: off by {error:.2g}"
    return None


def _outcome(inputs: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
    with torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
        leaf = inputs.detach().clone().requires_grad_()
        query, key, value = leaf.unbind(0)
        out = attend(query, key, value, backend)
        (gradient,) = torch.autograd.grad(out.float().square().sum(), leaf)
    return out.detach(), gradient


@contextmanager
def _contained() -> Iterator[list[str]]:
    """Keep off the terminal what xformers warns and logs while it is tried; yields a list that fills with the log."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(_summary(record.getMessage().removeprefix("WARNING[XFORMERS]: ")))  # type: ignore[method-assign]
    logger = logging.getLogger("xformers")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        logger.handlers, logger.propagate = before


def _summary(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit].rsplit(" ", 1)[0] + " ..."
