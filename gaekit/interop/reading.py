"""Other projects' checkpoint files: tensors by name out of .pt, .ckpt and .safetensors, without running any code."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gaekit.errors import ArtifactError
from gaekit.interop.diffusers_folder import licence_beside
from gaekit.store.artifact import KEY
from gaekit.store.files import sha256_file

State = dict[str, Tensor]

EMA, MODEL = ("ema", "ema_model", "model_ema"), ("model", "state_dict", "model_state_dict")
"""Under which names checkpoints keep the averaged weights, and those that training moved."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before a parameter's name."""


@dataclass(frozen=True)
class Source:
    """The tensors of one network of a file, which of the file's sets they are, the file's identity and licence."""

    path: Path
    state: State
    weights: str
    sha256: str
    licence: str

    @property
    def facts(self) -> dict[str, str]:
        """What an artifact records of where it comes from."""
        return {"file": self.path.name, "sha256": self.sha256, "weights": self.weights, "licence": self.licence}


def read_checkpoint(path: Path, weights: Literal["ema", "model"] | None = None) -> Source:
    """The network in a file: its averaged weights where there are some, unless `weights` says which.

    Containers (ema, model, state_dict) and prefixes of wrappers (module.) are taken off. Raises ArtifactError for a
    file that is absent, damaged, an artifact already, without the set asked for, or not readable without running code.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    state, name = _chosen(read_tensors(path), weights, path)
    licence = licence_beside(path, _metadata(path))
    return Source(path, {_bare(key): value for key, value in state.items()}, name, sha256_file(path), licence)


def read_tensors(path: Path) -> dict[str, Any]:
    """What is at the top of a .pt, .ckpt or .safetensors file. Raises ArtifactError."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says beside its tensors; {} for another."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            if KEY in (file.metadata() or {}):
                raise ArtifactError(f"{path}: is an artifact of gaekit already; a recipe takes it by {{from: {path}}}")
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- the file is no mapping
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read as safetensors ({error}); it is damaged or cut off") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        # Namespace is a bag of settings, in which DiT and SiT keep their arguments: taking it in runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ArtifactError(_needs_code(path, error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as a torch file ({_first_line(error)}); it is damaged, cut off or of another kind"
        ) from error
    if not isinstance(content, Mapping):
        raise ArtifactError(f"{path}: holds a {type(content).__name__}; a checkpoint is a dictionary of tensors")
    return dict(content)


def _needs_code(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if not found:
        return f"{path}: cannot be read as a torch file; it is damaged, cut off or of another kind"
    return (
        f"{path}: holds an object of {found[1]} beside its tensors, and reading that means running code from the file, "
        "which gaekit does not; where you trust the file, write its tensors anew: "
        "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW), "
        "or take a .safetensors file of the same weights"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _chosen(content: Mapping[str, Any], wanted: str | None, path: Path) -> tuple[State, str]:
    """(the tensors, "ema" or "model"): containers may lie within each other."""
    held = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    sets = {"ema": _first(held, EMA), "model": _first(held, MODEL)}
    found = [name for name, value in sets.items() if value is not None]
    if not found:
        state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if not state:
            raise ArtifactError(f"{path}: holds no tensors, but {', '.join(map(str, list(content)[:5])) or 'nothing'}")
        if wanted == "ema":
            raise ArtifactError(f"{path}: --weights ema, but the file holds one set of weights; leave the option out")
        return state, "model"
    name = wanted or found[0]
    if (inner := sets.get(name)) is None:
        raise ArtifactError(f"{path}: --weights {name}, but the file holds {', '.join(found)}")
    nested = any(isinstance(value, Mapping) for value in inner.values())
    return (_chosen(inner, None, path)[0] if nested else _tensors(inner)), name


def _first(held: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any] | None:
    return next((held[name] for name in names if name in held), None)


def _tensors(held: Mapping[str, Any]) -> State:
    return {key: value for key, value in held.items() if isinstance(value, Tensor)}


def _bare(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key
