"""The optimizer, its learning-rate schedule, and the names of its state."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from gaekit.errors import ArtifactError, GaekitError
from gaekit.recipe.schema import Train, steps_of
from gaekit.train.strategy import distribute_like


def has_horizon(train: Train) -> bool:
    """Whether what happens at a step depends on how many steps there will be."""
    moments: list[int | float | None] = [train.warmup]
    if train.schedule != "constant":
        moments += [train.decay_start, train.decay_end]
    return any(moment is None or (isinstance(moment, float) and moment != 0) for moment in moments)


def learning_rate(train: Train, step: int) -> float:
    """Learning rate of step `step` (from 0): linear warm-up to lr, then constant, or from decay_start on half a cosine
    or a line down to final_lr * lr at decay_end."""
    warmup = steps_of(train.warmup, train.steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    if train.schedule == "constant":
        return train.lr
    start = max(warmup, steps_of(train.decay_start, train.steps))
    end = train.steps if train.decay_end is None else steps_of(train.decay_end, train.steps)
    progress = min(1.0, max(0, step - start) / max(1, end - start))
    left = 1 - progress if train.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return train.lr * (train.final_lr + (1 - train.final_lr) * left)


def make_optimizer(module: nn.Module, train: Train, name: str = "module") -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over the parameters that require gradients; no decay on those of one dimension."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise GaekitError(f"{name}: has no parameter to train")
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kept = [g for g in groups if g["params"]]
    return torch.optim.AdamW(kept, lr=train.lr, betas=train.betas, eps=train.eps, fused=True)


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
