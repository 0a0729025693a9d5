"""Weights of the networks that judge: published files in torch's hub cache, files by path, or random ones for tests."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from torch import Tensor, nn

from gaekit.api import GaekitError

log = logging.getLogger(__name__)

HUB, RANDOM = "hub", "random"
WEIGHTS = "hub: the published file, fetched once into torch's hub cache; random: untrained, for tests; else a path"
TRUE = ("1", "ON", "YES", "TRUE")
BATCH_COUNTER = "num_batches_tracked"
SHOWN = 5
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Asset:
    """A published file; by torch's custom the beginning of its sha256 ends its name: `alexnet-owt-7be5be79.pth`."""

    url: str
    what: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]

    @property
    def sha256_starts(self) -> str:
        """The first eight digits of the file's sha256."""
        return Path(self.file).stem.rsplit("-", 1)[1]


def identity(weights: str, asset: Asset, seed: int) -> str:
    """What stands for the weights in a fingerprint: `hub:<url>`, `random:<seed>` or the sha256 of the file."""
    if weights == HUB:
        return f"hub:{asset.url}"
    if weights == RANDOM:
        return f"random:{seed}"
    return f"sha256:{sha256(_existing(Path(weights), asset))}"


def random_network(build: Callable[[], N], seed: int, owner: str) -> N:
    """An untrained network, the same for the same seed, leaving torch's own generators as they were; warns."""
    log.warning("%s has random weights (seed %d): good for tests, its numbers mean nothing", owner, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def find(weights: str, asset: Asset, owner: str) -> Path:
    """The file that `weights` (hub or a path) means, fetched if it may be. Raises GaekitError, naming it."""
    if weights != HUB:
        return _existing(Path(weights), asset)
    path = Path(torch.hub.get_dir()) / "checkpoints" / asset.file
    if not path.is_file():
        _fetch(asset, path, owner)
    if not (digest := sha256(path)).startswith(asset.sha256_starts):
        raise GaekitError(
            f"{owner}: {path} is damaged: its sha256 begins with {digest[:8]}, should with {asset.sha256_starts}; "
            f"delete it and fetch it again from {asset.url}"
        )
    return path


def _fetch(asset: Asset, path: Path, owner: str) -> None:
    absent = f"{owner} needs {asset.what}: {asset.file} is not in {path.parent}"
    mend = (
        f"where there is a network, download {asset.url}, then put it there or set `weights` to its path "
        f"(`weights: {RANDOM}` tests the rest, its numbers mean nothing)"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE:
        raise GaekitError(f"{absent}, and HF_HUB_OFFLINE forbids downloads; {mend}")
    log.info("%s: fetching %s", owner, asset.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(asset.url, str(path), hash_prefix=asset.sha256_starts, progress=False)
    except (OSError, RuntimeError) as error:  # no network, a full disk; RuntimeError is a wrong hash
        raise GaekitError(f"{absent}, and fetching it failed ({error}); {mend}") from error


def sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file, without running code of it. Raises GaekitError."""
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
    if not (isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values())):
        raise GaekitError(f"weights {path}: should hold named tensors and nothing else")
    return dict(content)


def load_into(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load `state`, read from `path`. Raises GaekitError with the first keys that are missing, unexpected or of another
    shape."""
    own = network.state_dict()
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith(BATCH_COUNTER)],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [key for key in own if key in state and own[key].shape != state[key].shape],
    }
    if any(problems.values()):
        told = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}" for what, keys in problems.items() if keys)
        raise GaekitError(f"weights {path}: do not fit {type(network).__name__}: {told}")
    nn.Module.load_state_dict(network, {**own, **state})


def _existing(path: Path, asset: Asset) -> Path:
    if not path.is_file():
        raise GaekitError(f"weights: no file {path}; give a path to {asset.file} ({asset.url}), '{HUB}' or '{RANDOM}'")
    return path
