"""A network as an artifact's head describes it, compared with the artifact's tensors before any memory is taken."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from gaekit.errors import ArtifactError, GaekitError

SPARE_TENSORS, SPARE_NUMBERS = 1_000, 100_000_000
"""What a network may hold beside twice what the file does: tables that are made anew and not stored."""


class _TooLarge(Exception):
    """A network that is not that of the file."""


@contextmanager
def _at_most(tensors: int, numbers: int) -> Iterator[None]:
    """Raises _TooLarge where this thread gives modules more tensors, or more numbers in them, than said: a depth of
    10^9 ends as soon as it is past what it can be."""
    mine, had = threading.get_ident(), [0, 0]

    def count(module: nn.Module, name: str, tensor: Any) -> None:
        if threading.get_ident() != mine or not isinstance(tensor, torch.Tensor):
            return
        had[0] += 1
        had[1] += tensor.numel()
        if had[0] > tensors or had[1] > numbers:
            raise _TooLarge

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def no_larger_than(stored: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Raises ArtifactError where modules are built, and given their weights, that hold more than twice what is
    `stored`, and a little: what a file says of its depth and width has an end."""
    numbers = sum(map(math.prod, stored.values()))
    try:
        with _at_most(4 * len(stored) + SPARE_TENSORS, 4 * numbers + SPARE_NUMBERS):
            yield
    except _TooLarge:
        raise ArtifactError(
            f"describes a far larger network than the {len(stored)} tensors of {numbers:,} numbers that are there"
        ) from None


def check_outline(build: Callable[[], nn.Module], stored: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Build a network on the meta device, where it takes no memory, and compare it with the shapes that are `stored`.

    Raises ArtifactError where it cannot be built or is another network; after no more work than building one twice the
    size of the file's.
    """
    numbers = sum(map(math.prod, stored.values()))
    try:
        with (
            _at_most(2 * len(stored) + SPARE_TENSORS, 2 * numbers + SPARE_NUMBERS),
            torch.random.fork_rng(devices=[]),
            torch.device("meta"),
        ):
            network = build()
            shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    except _TooLarge:
        raise ArtifactError(
            f"{source}: describes a far larger network than the {len(stored)} tensors of {numbers:,} numbers that it "
            "holds; it is damaged"
        ) from None
    except GaekitError as error:
        raise ArtifactError(f"{source}: describes a network that cannot be built: {error}") from error
    except Exception as error:  # torch and Python have many for sizes that are none: too large a number, 0 channels
        what = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ArtifactError(f"{source}: describes a network that cannot be built: {what}") from error
    check_fit(type(network).__name__, shapes, stored, source)


def check_fit(
    name: str, wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], source: Path | str
) -> None:
    """Raises ArtifactError naming the first keys and shapes in which `given` is not what is `wanted`."""
    faults = [
        ("missing", sorted(set(wanted) - set(given))),
        ("unexpected", sorted(set(given) - set(wanted))),
        ("of another shape",
         [f"{k} {tuple(given[k])} for {tuple(wanted[k])}" for k in wanted if k in given and given[k] != wanted[k]]),
    ]  # fmt: skip
    text = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:5])}" for what, keys in faults if keys)
    if text:
        raise ArtifactError(f"{source}: does not fit {name}: {text}; the sizes in the recipe differ from the file's")
