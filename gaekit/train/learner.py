"""One module that trains: its gradients, its optimizer, its average. Nothing here makes the host wait for the
device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaekit.errors import GaekitError
from gaekit.parallel import World
from gaekit.recipe.schema import Train
from gaekit.train.ema import EMA
from gaekit.train.guards import Outcome, Terms
from gaekit.train.optim import learning_rate
from gaekit.train.strategy import all_finite, gradient_norm, gradient_sync, is_sharded

CLIP_EPS = 1e-6
"""Added to the norm that is clipped, as torch does."""


@dataclass
class Learner:
    """A module, what is called in its place over several ranks, its optimizer by `settings`, and its average."""

    name: str
    module: nn.Module
    net: nn.Module
    optimizer: torch.optim.AdamW
    settings: Train
    ema: EMA | None = None

    def __post_init__(self) -> None:
        self.parameters: list[nn.Parameter] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average_gradients = gradient_sync(self.net)
        self._inputs = None if any(is_sharded(p) for p in self.parameters) else self.parameters

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss at the parameters that train, and at no others."""
        torch.autograd.backward(loss, inputs=self._inputs)

    def step(self, index: int, world: World, terms: Terms, *, measured: bool) -> Outcome:
        """End step `index` (from 0), whose losses were `terms`: clip the gradients, move the weights and their average.

        Where the gradients' norm is not finite, weights, optimizer and average stay as they are. That is decided on the
        device: the fused optimizer divides the gradients by `grad_scale`, and does nothing where `found_inf` is 1.

        Without clipping only a `measured` step takes the norm: others read their gradients in the optimizer alone, and
        stay as they are where a loss is not finite. What escapes them, a gradient that is not finite of a loss that is
        (of a root at 0, of a product that overflows), `is_finite` finds before it is saved.
        """
        if world.size > 1 and not self.optimizer.state:
            _all_take_part(self.name, self.module)
        clip = self.settings.clip
        norm = gradient_norm(self.parameters, world) if measured or clip is not None else None
        bad = [] if norm is None else [norm.isfinite().logical_not().float()]
        if clip is None:  # in measured steps too: where one logs must not decide what a loss that is not finite does
            bad.append(terms.bad(world))
        skip = torch.stack(bad).amax()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, index)
        self.optimizer.found_inf = skip  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None if clip is None or norm is None else _excess(norm, clip)  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.ema:
            self.ema.update(index, skip)
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(skip, norm)

    def is_finite(self, world: World) -> bool:
        """Whether every weight and every number of the optimizer is finite on all ranks, which must all call it. The
        host waits for it."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        return all_finite([*self.parameters, *(value for value in state if isinstance(value, Tensor))], world)


def _excess(norm: Tensor, clip: float) -> Tensor:
    """By what gradients are divided so that their norm is at most `clip`, float32."""
    return ((norm + CLIP_EPS) / clip).clamp(min=1.0).float()


def _all_take_part(name: str, module: nn.Module) -> None:
    idle = [key for key, p in module.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise GaekitError(
            f"{name}: {len(idle)} parameters take no part in its losses ({', '.join(idle[:5])}); over several "
            "processes each that requires a gradient must get one: freeze them, or use them"
        )
