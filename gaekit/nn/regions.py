"""What a machine may do with a network's repeated blocks without changing its numbers: recompute them in the backward
pass, to save memory, and compile them one by one, to save time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@runtime_checkable
class Regional(Protocol):
    """A module that names its regions: the repeated blocks that do nearly all of its work."""

    def regions(self) -> Iterable[nn.Module]:
        """The blocks, in any order. Those that are alike share what `torch.compile` makes of one."""
        ...


def run_block(block: nn.Module, *inputs: Any, checkpointing: bool) -> Tensor:
    """block(*inputs); with `checkpointing`, while it trains, only the inputs are kept and the backward pass runs the
    block again: less memory for more time, the same numbers, dropout included (arXiv 1604.06174)."""
    if checkpointing and block.training and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
    return block(*inputs)  # type: ignore[no-any-return]


def set_checkpointing(module: nn.Module) -> bool:
    """Set `checkpointing` on every part of `module` that has that attribute; whether there was one."""
    parts = [part for part in module.modules() if hasattr(part, "checkpointing")]
    for part in parts:
        part.checkpointing = True  # type: ignore[assignment]
    return bool(parts)


def compile_regions(module: nn.Module, backend: str | Callable[..., Any] = "inductor", *, whole: bool = True) -> int:
    """Compile in place the regions of every part that names some; where none does the whole module, if `whole`.

    Each region is compiled by itself, so that compilation does not grow with depth. -> how many regions there are.
    """
    from torch._functorch import config

    # Adaptive weights keep the graph of a backward pass, which one compiled to give its buffers away refuses.
    config.donated_buffer = False
    regions = [block for part in module.modules() if isinstance(part, Regional) for block in part.regions()]
    for part in regions or [module] * whole:
        part.compile(backend=backend)
    return len(regions)
