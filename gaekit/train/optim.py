"""The optimizer, its learning-rate schedule, and the names of its state."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from gaekit.errors import ArtifactError, GaekitError
from gaekit.recipe.schema import Train
from gaekit.train.strategy import distribute_like


def steps_of(value: int | float, total: int) -> int:
    """Steps from a setting that is a number of steps (int) or a fraction of the training (float)."""
    return value if isinstance(value, int) else round(value * total)


def has_horizon(train: Train) -> bool:
    """Whether what happens at a step depends on how many steps there will be."""
    fraction = isinstance(train.warmup, float) and train.warmup != 0
    return train.schedule != "constant" or fraction


def learning_rate(train: Train, peak: float, step: int) -> float:
    """Learning rate of step `step` (from 0): linear warm-up, then constant or half a cosine down to final_lr * peak."""
    warmup = steps_of(train.warmup, train.steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if train.schedule == "constant":
        return peak
    progress = min(1.0, (step - warmup) / max(1, train.steps - warmup))
    return peak * (train.final_lr + (1 - train.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def make_optimizer(
    module: nn.Module, train: Train, lr: float, betas: tuple[float, float], name: str = "module"
) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over the parameters that require gradients; no decay on those of one dimension."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise GaekitError(f"{name}: has no parameter to train")
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=train.eps, fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, torch.Tensor]:
    """The optimizer's state under `<parameter name>.<state name>`."""
    return {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _placed(value: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
    """State of a parameter's shape lies where the parameter lies; a count of steps lies whole on its device."""
    return distribute_like(value, parameter) if value.ndim else value.to(parameter.device)


def load_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Inverse of `optimizer_tensors`. Raises ArtifactError if a name belongs to no parameter."""
    left = dict.fromkeys(tensors)  # in their order, which is the same on every rank
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        keys = [k for k in left if k.startswith(f"{name}.") and "." not in k[len(name) + 1 :]]
        if keys:
            optimizer.state[parameter] = {k[len(name) + 1 :]: _placed(tensors[k], parameter) for k in keys}
            for key in keys:
                del left[key]
    if left:
        raise ArtifactError(f"optimizer state of unknown parameters: {', '.join(sorted(left)[:5])}")
