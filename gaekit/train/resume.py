"""Handing a checkpoint that one rank has read to all of them, a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gaekit.parallel import World
from gaekit.train.checkpoint import Checkpoint

Layout = dict[str, tuple[torch.Size, torch.dtype]]


class SharedTensors(Mapping[str, Tensor]):
    """Tensors by name that rank 0 holds; taking one hands it to every rank, on `device`.

    Every rank must take the same ones in the same order. So no rank but the first reads a file, and none holds more
    than one tensor beside its own; the first maps its files, and the system may drop their pages.
    """

    def __init__(self, layout: Layout, held: Mapping[str, Tensor] | None, world: World, device: torch.device):
        self.layout, self.held, self.world, self.device = layout, held, world, device

    def under(self, prefix: str) -> SharedTensors:
        """Those whose names begin so, without it."""
        start = f"{prefix}/"
        layout = {name[len(start) :]: what for name, what in self.layout.items() if name.startswith(start)}
        held = None if self.held is None else {name: self.held[start + name] for name in layout}
        return SharedTensors(layout, held, self.world, self.device)

    def __getitem__(self, name: str) -> Tensor:
        shape, dtype = self.layout[name]
        if self.held is not None:
            value = self.held[name].to(self.device)
        else:
            value = torch.empty(shape, dtype=dtype, device=self.device)
        return self.world.broadcast_tensor(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)


@dataclass(frozen=True)
class SharedCheckpoint:
    """A checkpoint as every rank sees it: step and state, and the tensors of each group when they are taken."""

    step: int
    state: dict[str, Any]
    groups: dict[str, SharedTensors]

    @classmethod
    def of(cls, saved: Checkpoint | None, world: World, device: torch.device) -> Self | None:
        """What rank 0 holds, on every rank; None where it holds none. Every rank must call it."""
        facts = None
        if saved is not None:
            layouts = {g: {n: (t.shape, t.dtype) for n, t in tensors.items()} for g, tensors in saved.groups.items()}
            facts = saved.step, saved.state, layouts
        facts = world.broadcast(facts)
        if facts is None:
            return None
        step, state, layouts = facts
        held = saved.groups if saved is not None else {}
        groups = {g: SharedTensors(layout, held.get(g), world, device) for g, layout in layouts.items()}
        return cls(step, state, groups)
