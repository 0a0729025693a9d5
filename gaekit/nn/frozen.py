"""A frozen network that somebody else's weights make: used, moved between devices, but neither trained nor saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class FrozenModule(nn.Module, Generic[M]):
    """Keeps `network` out of its owner's parameters, state dict and train(); `.to(device)` reaches it all the same."""

    def __init__(self, network: M):
        super().__init__()
        self._held = (network.requires_grad_(False).eval(),)  # in a tuple: not a submodule

    @property
    def network(self) -> M:
        """What is held."""
        return self._held[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, *inputs: Any) -> Any:
        """What the network says."""
        return self.network(*inputs)
