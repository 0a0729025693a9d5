"""How many floating-point operations networks do, counted by torch without a step being taken twice.

A watched network notes the shapes that it is called with, which changes nothing that it computes, compiled or not. What
a call of each sort takes is counted when somebody asks: torch's FlopCounterMode sees it once more on a copy of the
network that holds no numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from gaekit.api import Component
from gaekit.nn.attention import use_backend

Arguments = tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]
_COUNTED: dict[tuple[Any, ...], int] = {}
"""What a call took, for all meters of this process, which may run many trainings of the same networks."""


@dataclass(frozen=True)
class _Shape:
    """What is noted of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    grad: bool


@dataclass(frozen=True)
class _Call:
    """A sort of call: which network, with what, whether in training mode, whether its weights get gradients."""

    network: str
    arguments: Arguments
    training: bool
    backward: bool
    trains: bool


class FlopMeter:
    """Adds up the FLOP of the networks that it watches: matrix products, convolutions and attention, a multiplication
    and an addition being two.

    A call counts its forward pass, and one backward pass where gradients are kept for its weights or its inputs.
    Blocks that are computed again in the backward pass count once. Left out is what no network does: losses, the
    optimizer, an adaptive weight's own look at gradients, a metric's algebra. Attention counts as its two products,
    whatever computes it.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say
        self.calls: Counter[_Call] = Counter()
        self.uncounted: dict[str, str] = {}
        """Networks that could not be counted, and why: the sums are too small by theirs."""
        self._copies: dict[str, _Copy] = {}
        self._weights: dict[_Call, tuple[bool, ...]] = {}
        self._watched: WeakSet[nn.Module] = WeakSet()

    def watch(self, module: nn.Module, name: str = "") -> None:
        """Count the calls of a network from now on, under its name or that of its class. Where a module is called by
        other methods than `forward`, its parts are watched in its place. Call it before its weights are sharded."""
        for part in _called(module):
            if part not in self._watched:
                self._watched.add(part)
                self._watch(part, name or _name_of(module))

    def flop(self) -> int:
        """All so far, of this process."""
        return sum(self.by_network().values())

    def by_network(self) -> dict[str, int]:
        """The same by the networks' names."""
        found: Counter[str] = Counter()
        for call, count in list(self.calls.items()):
            if (network := self._copies[call.network]).name not in self.uncounted:
                found[network.name] += count * self._of(call, network)
        return dict(found)

    def _watch(self, module: nn.Module, name: str) -> None:
        key = f"{name} {_structure(module)}"
        if key not in self._copies:
            try:
                self._copies[key] = _Copy(name, module)
            except Exception as error:  # a plugin's network may hold what cannot be copied
                self._leave_out(name, _summary(error))
                return

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not torch.compiler.is_compiling():
                self._note(key, module, args, kwargs)

        # A closure, not a method: whoever copies the module must not copy this meter.
        if (compiled := module._compiled_call_impl) is None:
            module.register_forward_pre_hook(note, with_kwargs=True)
        else:  # hooks of a module that is compiled whole are compiled with it
            module._compiled_call_impl = _noted(module, compiled, note)

    def _note(self, key: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = _described(args), tuple((name, _described(value)) for name, value in kwargs.items())
        first = next(module.parameters(), None)
        trains = torch.is_grad_enabled() and first is not None and first.requires_grad
        call = _Call(key, arguments, module.training, torch.is_grad_enabled(), trains)
        try:
            self.calls[call] += 1
        except TypeError:  # an argument that has no hash
            self._leave_out(self._copies[key].name, "it is called with what cannot be noted")
            return
        if call not in self._weights:
            self._weights[call] = tuple(p.requires_grad for p in module.parameters())

    def _of(self, call: _Call, network: _Copy) -> int:
        key = (network.parts, call, self._weights[call])
        if key not in _COUNTED:
            try:
                _COUNTED[key] = network.count(call, self._weights[call])
            except Exception as error:  # such as a network whose shapes hang on numbers
                self._leave_out(network.name, _summary(error))
                return 0
        return _COUNTED[key]

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self.uncounted:
            self.uncounted[name] = reason
            self._say(f"FLOP: those of {name} are not counted: {reason}")


class _Copy:
    """A network without numbers: fake tensors have a shape and a type, and what is done with them is not computed."""

    def __init__(self, name: str, module: nn.Module):
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.name, self.parts = name, tuple(type(part) for part in module.modules())
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        memo: dict[int, Any] = {}
        with self._mode:
            for tensor in _tensors_of(module):
                memo[id(tensor)] = _empty_like(tensor)
        self.module: nn.Module = copy.deepcopy(module, memo)
        use_backend(self.module, "math")
        for part in self.module.modules():
            if hasattr(part, "checkpointing"):
                part.checkpointing = False  # type: ignore[assignment]

    def count(self, call: _Call, trained: tuple[bool, ...]) -> int:
        """FLOP of a call, with its backward pass where it has one."""
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        weights = list(self.module.parameters())
        for weight, trains in zip(weights, trained, strict=True):
            weight.requires_grad_(trains)
        self.module.train(call.training)
        counter = FlopCounterMode(display=False)
        math = sdpa_kernel(SDPBackend.MATH)  # no other is counted on every device, and by its products alone
        with _unlogged(), self._mode, math, torch.set_grad_enabled(call.backward), counter:
            positional, named = call.arguments
            args, kwargs = _made(positional), {name: _made(value) for name, value in named}
            out = self.module(*args, **kwargs)
            if call.backward and (ends := [t for t in _tensors_in(out) if t.requires_grad]):
                torch.autograd.backward(ends, [torch.ones_like(t) for t in ends])
        self.module.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())


@contextmanager
def _unlogged() -> Iterator[None]:
    """Have torch log no traceback of a network that cannot be counted, such as one whose own call has just failed: the
    meter says so in a line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _noted(
    module: nn.Module, compiled: Callable[..., Any], note: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        note(module, args, kwargs)
        return compiled(*args, **kwargs)

    return call


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """The module, or where it has no `forward`, the outermost parts that have one."""
    if type(module).forward is not nn.Module.forward:
        yield module
    else:
        for part in module.children():
            yield from _called(part)


def _name_of(module: nn.Module) -> str:
    return f"{module.kind} {module.name}" if isinstance(module, Component) else type(module).__name__


def _structure(module: nn.Module) -> str:
    """What networks that do the same have in common."""
    tensors = [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
    told = repr((type(module), getattr(module, "config", None), repr(module), tensors))
    return hashlib.sha256(told.encode()).hexdigest()


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Shape(tuple(value.shape), value.dtype, value.requires_grad and torch.is_grad_enabled())
    if isinstance(value, tuple | list):
        return tuple(map(_described, value))
    return value


def _made(described: Any) -> Any:
    """Inverse of `_described`, with float32 in place of every other floating type."""
    if isinstance(described, _Shape):
        dtype = torch.float32 if described.dtype.is_floating_point else described.dtype
        return torch.empty(described.shape, dtype=dtype, requires_grad=described.grad)
    return tuple(map(_made, described)) if isinstance(described, tuple) else described


def _empty_like(tensor: Tensor) -> Tensor:
    """One without numbers on the CPU; float32 where it is of a floating type."""
    empty = torch.empty(tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype)
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _tensors_of(held: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors of a module, also those that it keeps as plain attributes, or in modules kept so."""
    seen = set() if seen is None else seen
    if isinstance(held, Tensor):
        yield held
        return
    if not isinstance(held, nn.Module | tuple | list | Mapping) or id(held) in seen:
        return
    seen.add(id(held))  # a module may hold what holds it
    inside = (
        vars(held).values() if isinstance(held, nn.Module) else held.values() if isinstance(held, Mapping) else held
    )
    for value in inside:
        yield from _tensors_of(value, seen)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of what a network is given or gives."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    yield from _tensors_of(value)


def _summary(error: Exception) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
