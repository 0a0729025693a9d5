"""What the checks have in common: promises, deterministic numbers, gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from gaekit.api import GeneratorDraws, Losses
from gaekit.guard import BrokenPromise, check_tensor, expect
from gaekit.nn.regions import Regional, set_checkpointing

__all__ = ["BrokenPromise", "check_tensor", "expect"]

BATCH = 4
BF16 = torch.bfloat16
Make = Callable[..., Any]
"""Builds the component that is checked, always with the same initial weights; keywords replace some of its sizes."""
Run = Callable[[Any], Tensor]
"""What a module makes of numbers that are always the same."""


@contextmanager
def own_randomness(when: str = "") -> Iterator[None]:
    """Fails if what runs inside draws from a global generator: torch's, numpy's or Python's."""
    before = _global_states()
    yield
    for name, state in _global_states().items():
        drawn = f"draws from the global generator of {name}{when}" if state != before[name] else None
        expect(drawn is None, "randomness comes from `draws`, not from a global generator", drawn)


def _global_states() -> dict[str, object]:
    numpy = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (np.asarray(numpy[1]).tobytes(), numpy[2:]),  # type: ignore[index]
        "Python": random.getstate(),
    }


def numbers(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = BATCH, side: int = 32, seed: int = 1) -> Tensor:
    """Images in [-1, 1], the same for the same seed."""
    return numbers(count, 3, side, side, seed=seed).clamp(-1, 1)


def draws(seed: int = 3, batch: int = BATCH) -> GeneratorDraws:
    """Draws for a batch, the same for the same seed."""
    return GeneratorDraws(batch, torch.Generator().manual_seed(seed))


def check_module(
    make: Make, run: Run, *, module: Any = None, types: tuple[torch.dtype, ...] = (torch.float32, BF16)
) -> None:
    """A module gives the same twice, its state dict holds all that decides its results, training draws from no global
    generator, autocast leaves its results finite and in one of `types`, recomputed blocks give the same gradients.

    A frozen one, which may take long to build, is given; others are built and moved off their initial weights.
    """
    if module is None:
        module = make()
        disturb(module)
        check_regions(make, run)
    expect(isinstance(module, nn.Module), "the component is a torch module", type(module).__name__)
    other = make()
    other.load_state_dict(module.state_dict(), strict=True)
    module.eval()
    other.eval()
    with torch.no_grad():
        first = run(module)
        expect(torch.equal(first, run(module)), "the same input gives the same output in eval mode")
        expect(torch.equal(first, run(other)), "a state dict restores the module")
        check_autocast(module, run, first, types)
    check_training_mode(module, run)


def check_autocast(module: Any, run: Run, plain: Tensor, types: tuple[torch.dtype, ...]) -> None:
    """Under autocast to bfloat16: results of the same shape, finite, in one of `types`."""
    with torch.autocast("cpu", BF16):
        cast = run(module)
    names = " or ".join(str(t).removeprefix("torch.") for t in types)
    expect(cast.shape == plain.shape, f"the same shape under autocast: {tuple(plain.shape)}", tuple(cast.shape))
    expect(cast.dtype in types, f"{names} under autocast to bfloat16", str(cast.dtype).removeprefix("torch."))
    expect(bool(torch.isfinite(cast).all()), "finite numbers under autocast to bfloat16", "some that are not")


def check_training_mode(module: Any, run: Callable[[Any], object]) -> None:
    """While it trains, too, a module draws from no global generator, but by its layers of `nn.Dropout`: these show, and
    trainings seed torch's generator at every step."""
    module.train()
    for part in module.modules():
        if isinstance(part, _DropoutNd):
            part.eval()
    with own_randomness(" in training mode"):
        run(module)
    module.eval()


def check_regions(make: Make, run: Run) -> None:
    """Blocks that are offered to `runtime` are the module's, and recomputing them changes no gradient."""
    module = make()
    disturb(module)
    inside = set(map(id, module.modules()))
    for part in module.modules():
        if isinstance(part, Regional):
            blocks = list(part.regions())
            mine = bool(blocks) and all(isinstance(b, nn.Module) and id(b) in inside for b in blocks)
            expect(mine, "`regions` gives blocks of the module", [type(block).__name__ for block in blocks])
    trained = [p for p in module.parameters() if p.requires_grad]
    module.train()
    once, plain = _work(module, run, trained)
    if not trained or not set_checkpointing(module):
        return
    again, recomputed = _work(module, run, trained)
    expect(again > once, "with `checkpointing`, blocks are run again in the backward pass", f"{once} calls in all")
    same = all(
        (a is None and b is None) or (a is not None and b is not None and torch.allclose(a, b, atol=1e-5))
        for a, b in zip(plain, recomputed, strict=True)
    )
    expect(same, "recomputed blocks give the same gradients", "other ones" if not same else None)


def _work(module: nn.Module, run: Run, trained: list[nn.Parameter]) -> tuple[int, list[Tensor | None]]:
    """(calls of submodules in a step, its gradients)."""
    calls = 0

    def count(*given: Any) -> None:
        nonlocal calls
        calls += 1

    hooks = [part.register_forward_pre_hook(count) for part in module.modules() if part is not module]
    grads: list[Tensor | None] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for dropout
        out = run(module)
        if trained and out.requires_grad:
            grads = list(torch.autograd.grad(out.float().square().mean(), trained, allow_unused=True))
    for hook in hooks:
        hook.remove()
    return calls, grads


def disturb(module: nn.Module) -> None:
    """Leave the initial weights, where zero-initialised layers hide the rest."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def check_gradient(loss: Tensor, wanted: Mapping[str, Tensor]) -> None:
    """The gradient of `loss` reaches each of `wanted`, finite and somewhere not zero."""
    everything = " and ".join(wanted)
    expect(loss.requires_grad, f"the gradient reaches {everything}", "a result that is detached from its input")
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    for name, grad in zip(wanted, grads, strict=True):
        found = None
        if grad is None or not bool((grad != 0).any()):
            found = "none that is not 0"
        elif not bool(torch.isfinite(grad).all()):
            found = "one that is not finite"
        expect(found is None, f"the gradient reaches {name}", found)


def check_losses(losses: Losses, what: str) -> Tensor | None:
    """Scalars by name; their weighted sum, or None where there are no terms."""
    for name, loss in losses.items():
        check_tensor(loss.value, (), f"{what} '{name}'")
    return sum(loss.weighted for loss in losses.values()) if losses else None  # type: ignore[return-value]
