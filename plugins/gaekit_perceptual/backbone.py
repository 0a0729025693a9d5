"""torchvision's ImageNet classifiers up to their last convolution, and where their weights come from."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from gaekit.api import GaekitError, require

log = logging.getLogger(__name__)

HUB, RANDOM = "hub", "random"
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Published:
    """A classifier of torchvision's: `model` is its name there, `taps` the layers that LPIPS compares, `smallest` the
    side of the smallest image that reaches the last of them."""

    model: str
    file: str
    taps: tuple[int, ...]
    smallest: int

    @property
    def url(self) -> str:
        """Where torchvision publishes the weights."""
        return f"https://download.pytorch.org/models/{self.file}"

    @property
    def sha256_starts(self) -> str:
        """The first eight digits of the file's sha256, which by torch's custom end its name."""
        return Path(self.file).stem.rsplit("-", 1)[1]

    @property
    def cached(self) -> Path:
        """Where torch's hub keeps the file once it is fetched."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


def identity(source: str, published: Published, seed: int) -> str:
    """What stands for the weights in a fingerprint: `hub:<file>`, `random:<seed>` or the sha256 of the file."""
    if source == HUB:
        return f"hub:{published.file}"
    return f"random:{seed}" if source == RANDOM else f"sha256:{sha256(_existing(Path(source), published))}"


def load(source: str, published: Published, seed: int, owner: str) -> nn.Sequential:
    """The convolutional part, with weights by `source`: hub, random or a path. Raises GaekitError.

    torch's CPU generator stays as it was.
    """
    models: Any = require("torchvision.models", extra="metrics", wanted_by=owner)
    with torch.device("meta"):  # the classifier on top, most of VGG, is never made
        features: nn.Sequential = getattr(models, published.model)(weights=None).features
    if source == RANDOM:
        return _random(features, published, seed, owner)
    path = _fetched(published, owner) if source == HUB else _existing(Path(source), published)
    _load_into(features, path, published)
    return features


def _random(features: nn.Sequential, published: Published, seed: int, owner: str) -> nn.Sequential:
    log.warning("%s: %s has random weights (seed %d): good for tests", owner, published.model, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features.to_empty(device="cpu")
        for module in features.modules():
            if isinstance(module, nn.Conv2d):
                # He's initialisation keeps the activations' size through any number of layers.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return features


def _fetched(published: Published, owner: str) -> Path:
    """The file in torch's hub cache, fetched if it may be, its content checked against the hash in its name."""
    path = published.cached
    if not path.is_file():
        _fetch(published, owner)
    wanted, found = published.sha256_starts, sha256(path)
    if not found.startswith(wanted):
        raise GaekitError(
            f"{owner}: {path} is damaged: its sha256 begins with {found[: len(wanted)]}, should with {wanted}; "
            f"delete it and fetch it again from {published.url}"
        )
    return path


def _fetch(published: Published, owner: str) -> None:
    absent = (
        f"{owner} needs torchvision's ImageNet weights {published.file}, which are not in {published.cached.parent}"
    )
    mend = (
        f"where there is a network, download {published.url}, then put it there or set `backbone` to its path "
        f"(`backbone: {RANDOM}` is for tests)"
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise GaekitError(f"{absent}, and HF_HUB_OFFLINE forbids downloads; {mend}")
    log.info("%s: fetching %s", owner, published.url)
    try:
        published.cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(published.url, str(published.cached), published.sha256_starts, progress=False)
    except (OSError, RuntimeError) as error:
        raise GaekitError(f"{absent}, and fetching it failed ({error}); {mend}") from error


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file, without running code of it. Raises GaekitError."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise GaekitError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise GaekitError(f"{path}: not a safetensors file: {error}") from error
    if not (isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values())):
        raise GaekitError(f"{path}: should hold named tensors and nothing else")
    return dict(content)


def _load_into(features: nn.Sequential, path: Path, published: Published) -> None:
    prefix = "features."
    state = {k.removeprefix(prefix): v.float() for k, v in read(path).items() if k.startswith(prefix)}
    own = features.state_dict()
    faults = [key for key in own if key not in state or state[key].shape != own[key].shape]
    faults += [key for key in state if key not in own]
    if faults:
        shown = ", ".join(prefix + key for key in faults[:5])
        raise GaekitError(
            f"{path}: not the weights of torchvision's {published.model} ({published.file}): {len(faults)} tensors are "
            f"missing, unexpected or of another shape: {shown}"
        )
    features.load_state_dict(state, assign=True)


def sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(path: Path, published: Published) -> Path:
    if not path.is_file():
        raise GaekitError(
            f"backbone: no file {path}; give a path to {published.file} ({published.url}), '{HUB}' or '{RANDOM}'"
        )
    return path
