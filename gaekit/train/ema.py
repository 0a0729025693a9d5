"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from gaekit.train.strategy import distribute_like, is_sharded, local_tensor


class EMA:
    """Averages the parameters of a module that train, in float32 at least: w <- d w + (1 - d) p after every step.

    d is `decay`; with `warmup` it is min(decay, (1 + step) / (10 + step)), step from 0, so that the average forgets the
    first weights soon (TensorFlow's ExponentialMovingAverage with `num_updates`). With `offload` the averages stand in
    the CPU's memory: an update copies the weights there while the device goes on, and a thread takes them in.
    """

    def __init__(self, module: nn.Module, decay: float, *, warmup: bool = False, offload: bool = False):
        self.decay, self.warmup, self.module = decay, warmup, module
        trained = {name: p for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
        averages = {p: _widened(p.detach(), offload) for p in trained.values()}
        self._named = {name: averages[p] for name, p in trained.items()}
        self._parameters: list[Tensor] = list(averages)
        self._sharded = any(is_sharded(p) for p in averages)
        self._averages = [local_tensor(average) for average in averages.values()]
        self._narrower = any(p.dtype != average.dtype for p, average in averages.items())
        self._offloaded = _Offloaded() if offload else None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The module's `state_dict` with the averages in place of what trains; the rest as it now is."""
        if self._offloaded:
            self._offloaded.wait()
        return {name: self._named.get(name, value.detach()) for name, value in self.module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int, skip: Tensor | None = None) -> None:
        """Take in the weights after step `step` (from 0); nothing changes where `skip`, a float32 scalar on their
        device, is 1. The host waits for neither."""
        weight = 1 - self._decay_at(step)
        weights = [local_tensor(p) for p in self._parameters] if self._sharded else self._parameters
        if self._narrower and not self._offloaded:
            weights = _as_wide(self._averages, weights)
        if self._offloaded:
            self._offloaded.average(self._averages, weights, weight, skip)
        else:
            _average(self._averages, weights, weight, skip)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved averages, as `tensors` gives them."""
        if self._offloaded:
            self._offloaded.wait()
        for name, own in self._named.items():
            own.copy_(distribute_like(tensors[name], own))

    def _decay_at(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


def _widened(value: Tensor, offload: bool) -> Tensor:
    own = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
    return own.cpu() if offload else own


def _as_wide(averages: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    return [w.to(a.dtype) for a, w in zip(averages, weights, strict=True)]


def _average(averages: list[Tensor], weights: list[Tensor], weight: float, skip: Tensor | None) -> None:
    """averages += weight * (weights - averages), of the same types, all in one call, unless `skip` is 1.

    `torch._foreach_lerp_`, but for `skip`, which is found on the device: a step of SGD along -weights with weight decay
    1 and learning rate `weight` is the same, number for number, and heeds it as after a gradient that is not finite.
    """
    torch._fused_sgd_(
        averages, weights, [], lr=weight, weight_decay=1.0, maximize=True,
        momentum=0.0, dampening=0.0, nesterov=False, is_first_step=True, found_inf=skip,
    )  # fmt: skip


class _Offloaded:
    """Copies of the weights in the CPU's memory, pinned for a GPU, and the thread that takes them in."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "averages")
        self._copies: list[Tensor] = []
        self._pending: Future[None] | None = None

    def average(self, averages: list[Tensor], weights: list[Tensor], weight: float, skip: Tensor | None) -> None:
        """As `_average`, for averages on the CPU; done when `wait` returns."""
        self.wait()  # for the update before, whose copies these replace
        sources = [*weights, torch.zeros((), device=weights[0].device) if skip is None else skip]
        on_gpu = sources[0].is_cuda
        if not self._copies:
            self._copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=on_gpu) for t in sources]
        torch._foreach_copy_(self._copies, sources, non_blocking=True)
        copied = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        if copied:
            copied.record()

        def take_in() -> None:
            if copied:
                copied.synchronize()
            *own, skipped = self._copies
            _average(averages, _as_wide(averages, own), weight, skipped)

        self._pending = self._thread.submit(take_in)

    def wait(self) -> None:
        """Return when the last update is in the averages."""
        if self._pending:
            self._pending.result()
            self._pending = None
