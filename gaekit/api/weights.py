"""A component's setting `weights: hub | random | PATH`: what it means, its identity, and reading it without running
code.

    weights: str = Field(default=weights.HUB, description=weights.DESCRIPTION)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gaekit.api.assets import Asset, LocalFile
from gaekit.errors import GaekitError

log = logging.getLogger(__name__)

HUB, RANDOM = "hub", "random"
DESCRIPTION = "hub: the published file, fetched once into torch's hub cache; random: untrained, for tests; else a path"
WRAPPERS = ("state_dict", "model", "teacher", "params")
"""Under which published .pth files keep their tensors."""
BATCH_COUNTER = "num_batches_tracked"
"""Of batch norm: files from before torch 0.4 lack it, and frozen networks do not read it."""
SHOWN = 5
N = TypeVar("N", bound=nn.Module)


def chosen(setting: str, published: Asset | None, expected: str = "a .safetensors or .pth file") -> Asset | None:
    """The asset that the setting means, None for random weights. `published` may be None where it is not `hub`."""
    if setting == HUB:
        return published
    if setting == RANDOM:
        return None
    return LocalFile("file of weights", setting, f"give a path to {expected}, '{HUB}' or '{RANDOM}'")


def assets(setting: str, published: Asset | None, expected: str = "a .safetensors or .pth file") -> tuple[Asset, ...]:
    """What a component with this setting needs, for its `assets`."""
    asset = chosen(setting, published, expected)
    return () if asset is None else (asset,)


def identity(setting: str, published: Asset | None, seed: int, expected: str = "a .safetensors or .pth file") -> str:
    """What stands for the weights in a fingerprint: the published one's identity, `random:<seed>` or a file's sha256.

    Raises GaekitError for a file that is absent.
    """
    asset = chosen(setting, published, expected)
    return f"random:{seed}" if asset is None else asset.identity


def random_network(build: Callable[[], N], seed: int, owner: str) -> N:
    """An untrained network, the same for the same seed, leaving torch's own generators as they were; warns."""
    log.warning("%s has random weights (seed %d): good for tests, its numbers mean nothing", owner, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth, .pt or .bin file, alone or under one of `WRAPPERS`, on the CPU.

    No code of the file is run. Raises GaekitError for any other content.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's own text advises to run the file's code
        raise GaekitError(f"weights {path}: cannot be read: damaged, cut off, or more than tensors") from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise GaekitError(f"weights {path}: cannot be read: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise GaekitError(f"weights {path}: not a safetensors file: {error}") from error
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not (isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values())):
        raise GaekitError(f"weights {path}: should hold named tensors, alone or under one of: {', '.join(WRAPPERS)}")
    return dict(content)


def load_into(
    network: nn.Module, state: Mapping[str, Tensor], path: Path, *, name: str = "", assign: bool = False
) -> None:
    """Load `state`, read from `path`, into a network; with `assign` it takes the tensors themselves, as for one on the
    meta device. Raises GaekitError with the first five keys that are missing, unexpected or of another shape."""
    own = network.state_dict()
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith(BATCH_COUNTER)],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [key for key in own if key in state and own[key].shape != state[key].shape],
    }
    if any(problems.values()):
        told = "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in problems.items() if keys)
        raise GaekitError(f"weights {path}: do not fit {name or type(network).__name__}: {told}")
    # the class's own: some networks have made something else of the method
    nn.Module.load_state_dict(network, {**own, **state}, assign=assign)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
