"""The exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import nn


class EMA:
    """Averages the parameters of a module in float32, w <- decay * w + (1 - decay) * p after every step; buffers are
    copied."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {
            name: value.detach().clone().float() if value.is_floating_point() else value.detach().clone()
            for name, value in module.state_dict().items()
        }
        self._parameters = {name for name, _ in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's current weights."""
        for name, value in module.state_dict().items():
            if name in self._parameters:
                self.tensors[name].lerp_(value.float(), 1 - self.decay)
            else:
                self.tensors[name].copy_(value)

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over saved averages."""
        for name, own in self.tensors.items():
            own.copy_(tensors[name])
