"""A folder as diffusers writes it: weights, their settings, and what a model card beside them says of the licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaekit.errors import ArtifactError
from gaekit.store.files import read_json

WEIGHTS, CONFIG, CARD = "diffusion_pytorch_model.safetensors", "config.json", "README.md"
"""The files of a folder as diffusers writes it, and the model card of a hub."""
NOT_TOLD = "not told"
"""The licence of a file that says none."""
LONGEST_CARD = 1 << 16
"""Bytes of a model card in which its licence stands: at its beginning."""
_FRONT_MATTER = re.compile(r"\A---[ \t\r]{0,20}\n(.*?)\n---[ \t\r]{0,20}$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(r"^license(?:_name)?:[ \t]{0,20}['\"]?([\w.+ -]{1,100}?)['\"]?[ \t\r]{0,20}$", re.MULTILINE)


def weights_in(path: Path) -> Path:
    """The file of weights in a folder of diffusers'; any other path as it is."""
    return path / WEIGHTS if (path / WEIGHTS).is_file() else path


def settings_beside(file: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in the config.json beside a file of weights; {} where there is none.

    Raises ArtifactError where one of `wanted` is there and another: the network is not the one that is read.
    """
    if not (path := file.parent / CONFIG).is_file():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: holds no settings; it is damaged or cut off")
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise ArtifactError(f"{path}: {key} is {config[key]}; gaekit's network is for {value}")
    return config


def licence_beside(file: Path, metadata: Mapping[str, str]) -> str:
    """What a file of weights says of its licence, else its config.json and the model card beside that; NOT_TOLD.

    `metadata` is that of a .safetensors file, {} for another. A card counts only beside a config.json: elsewhere a
    README.md is of whatever lies in the folder.
    """
    for key in ("license", "modelspec.license"):
        if told := metadata.get(key):
            return told
    if not (file.parent / CONFIG).is_file():
        return NOT_TOLD
    config = read_json(file.parent / CONFIG)
    if isinstance(config, dict) and isinstance(told := config.get("license"), str):
        return told
    card = file.parent / CARD
    front = _FRONT_MATTER.search(_beginning(card)) if card.is_file() else None
    # "other" has its name in a line of its own: license_name
    return ", ".join(_LICENCE.findall(front[1])) or NOT_TOLD if front else NOT_TOLD


def _beginning(card: Path) -> str:
    with card.open("rb") as file:
        return file.read(LONGEST_CARD).decode("utf-8", errors="replace")
