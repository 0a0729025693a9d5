"""What the checks have in common: promises, deterministic numbers, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.api import GeneratorDraws, Losses

BATCH = 4
Make = Callable[..., Any]
"""Builds the component that is checked, always with the same initial weights; keywords replace some of its sizes."""


def expect(kept: bool, promise: str) -> None:
    """Raise AssertionError with the `promise` that was not `kept`."""
    if not kept:
        raise AssertionError(promise)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Fails if what runs inside draws from torch's global generator."""
    before = torch.get_rng_state()
    yield
    expect(torch.equal(before, torch.get_rng_state()), "randomness comes from `draws`, not from the global generator")


def numbers(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = BATCH, side: int = 32, seed: int = 1) -> Tensor:
    """Images in [-1, 1], the same for the same seed."""
    return numbers(count, 3, side, side, seed=seed).clamp(-1, 1)


def draws(seed: int = 3, batch: int = BATCH) -> GeneratorDraws:
    """Draws for a batch, the same for the same seed."""
    return GeneratorDraws(batch, torch.Generator().manual_seed(seed))


def check_tensor(value: Tensor, shape: tuple[int, ...], what: str) -> None:
    """A finite float32 tensor of this shape."""
    expect(tuple(value.shape) == shape, f"{what} has shape {shape}, not {tuple(value.shape)}")
    expect(value.dtype == torch.float32, f"{what} is float32, not {value.dtype}")
    expect(bool(torch.isfinite(value).all()), f"{what} is finite")


def check_module(make: Make, run: Callable[[Any], Tensor], *, module: Any = None) -> None:
    """A module gives the same twice, and its state dict holds all that decides its results.

    A frozen one, which may take long to build, is given; others are built and moved off their initial weights.
    """
    if module is None:
        module = make()
        disturb(module)
    expect(isinstance(module, nn.Module), "the component is a torch module")
    other = make()
    other.load_state_dict(module.state_dict(), strict=True)
    module.eval()
    other.eval()
    with torch.no_grad():
        first = run(module)
        expect(torch.equal(first, run(module)), "the same input gives the same output in eval mode")
        expect(torch.equal(first, run(other)), "a state dict restores the module")


def disturb(module: nn.Module) -> None:
    """Leave the initial weights, where zero-initialised layers hide the rest."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def check_gradient(loss: Tensor, wanted: Mapping[str, Tensor]) -> None:
    """The gradient of `loss` reaches each of `wanted`, finite and somewhere not zero."""
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    for name, grad in zip(wanted, grads, strict=True):
        reached = grad is not None and bool(torch.isfinite(grad).all()) and bool((grad != 0).any())
        expect(reached, f"the gradient reaches {name}")


def check_losses(losses: Losses, what: str) -> Tensor | None:
    """Scalars by name; their weighted sum, or None where there are no terms."""
    for name, loss in losses.items():
        check_tensor(loss.value, (), f"{what} '{name}'")
    return sum(loss.weighted for loss in losses.values()) if losses else None  # type: ignore[return-value]
