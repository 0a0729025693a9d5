"""Weights from files: reading, checking against a network, and their identity for fingerprints."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.errors import GaekitError

HUB, RANDOM = "hub", "random"
_WRAPPERS = ("state_dict", "model", "teacher", "params")  # under which published .pth files keep their tensors
_SHOWN = 5


def identity(weights: str, *, hub: str, seed: int) -> str:
    """What stands for the weights in a fingerprint: `hub:<where>`, `random:<seed>` or the sha256 of the file."""
    if weights == HUB:
        return f"hub:{hub}"
    if weights == RANDOM:
        return f"random:{seed}"
    path = _existing(Path(weights))
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth, .pt or .bin file. Raises GaekitError for any other content."""
    _existing(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise GaekitError(f"weights {path}: cannot be read: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise GaekitError(f"weights {path}: not a safetensors file: {error}") from error
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not (isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values())):
        raise GaekitError(f"weights {path}: should hold named tensors, alone or under one of: {', '.join(_WRAPPERS)}")
    return dict(content)


def load_into(network: nn.Module, path: Path, *, ignore: tuple[str, ...] = ()) -> None:
    """Load a file into a timm network; `ignore` are the modules (the classifier) whose tensors are not wanted.

    Keys may be timm's or the original authors', where timm knows how to convert them. Raises GaekitError that names
    the first five keys that are missing, unexpected or of another shape.
    """
    state = read(path)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        state = convert(state, network)
    prefixes = tuple(f"{module}." for module in ignore)
    state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    own = network.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [key for key in own if key in state and own[key].shape != state[key].shape],
    }
    if any(problems.values()):
        told = "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in problems.items() if keys)
        raise GaekitError(f"weights {path}: do not fit the model {type(network).__name__}: {told}")
    network.load_state_dict(state)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise GaekitError(f"weights: no file {path}; give a path to a .safetensors or .pth file, '{HUB}' or '{RANDOM}'")
    return path
