"""Published files out of the golden ones, and importing them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from parity_helpers import Tensors, load_fixture

from gaekit.interop.formats import Options
from gaekit.interop.importing import Imported, import_file
from gaekit.plugins import Registry, load_plugins

GOLDEN: dict[str, tuple[str, dict[str, Any]]] = {
    "gae": ("gae_tokenizer", {"heads": 4}),
    "gae-semantic": ("semantic_teacher", {}),
    "ldm-vae": ("ldm_vae", {"image_size": 32}),
    "lightningdit": ("lightning_dit", {"scale": 1.0}),
    "dit": ("dit", {"scale": 0.18215, "heads": 4}),
    "sit": ("sit", {"scale": 0.18215, "heads": 4}),
    "dit_dh": ("ddt", {"scale": 1.0}),
}
"""The golden file of each format, and what has to be said of it."""


@cache
def registry() -> Registry:
    return load_plugins()


def state_of(name: str) -> Tensors:
    """The published tensors of a golden file of the format `name`."""
    return load_fixture(GOLDEN[name][0])[1]


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def take(name: str, content: Any, folder: Path, **options: Any) -> Imported:
    """Import what a file holds, with what has to be said of the golden one."""
    said = Options(**{**GOLDEN[name][1], **options})
    return import_file(name, save(folder / "published.pt", content), folder / "taken", said, registry())


def same(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
