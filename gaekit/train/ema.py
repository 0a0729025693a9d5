"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gaekit.train.strategy import distribute_like


class EMA:
    """Averages the parameters of a module in float32, w <- decay * w + (1 - decay) * p after every step; buffers are
    copied. With `offload` the averages stand in the CPU's memory, and weights are copied there at every step."""

    def __init__(self, module: nn.Module, decay: float, *, offload: bool = False):
        self.decay, self.offload = decay, offload
        self.tensors = {name: self._own(value).clone() for name, value in module.state_dict().items()}
        self._parameters = {name for name, _ in module.named_parameters()}

    def _own(self, value: Tensor) -> Tensor:
        value = value.detach()
        if value.is_floating_point():
            value = value.to(torch.promote_types(value.dtype, torch.float32))
        return value.cpu() if self.offload else value

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's current weights."""
        for name, value in module.state_dict().items():
            if name in self._parameters:
                self.tensors[name].lerp_(self._own(value), 1 - self.decay)
            else:
                self.tensors[name].copy_(value)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved averages."""
        for name, own in self.tensors.items():
            own.copy_(distribute_like(tensors[name], own))
