"""Components out of a fixture by the path of `gaekit import`: a checkpoint file, an artifact, what a run loads."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from parity.fixture import Fixture

from gaekit.api import Denoiser
from gaekit.interop.formats import Options
from gaekit.interop.importing import import_file
from gaekit.plugins import Registry, load_plugins
from gaekit.store.models import Autoencoder, load_autoencoder, load_denoiser


@cache
def registry() -> Registry:
    return load_plugins()


def imported(name: str, fixture: Fixture, folder: Path, options: Options) -> Path:
    """The artifact of the fixture's state as a file of the format `name`."""
    file = folder / "published.pt"
    torch.save({"state_dict": fixture.state}, file)
    return import_file(name, file, folder / "imported", options, registry()).artifact


def denoiser(name: str, fixture: Fixture, options: Options) -> Denoiser:
    with tempfile.TemporaryDirectory() as folder:
        return load_denoiser(imported(name, fixture, Path(folder), options), registry()).network


def autoencoder(name: str, fixture: Fixture, options: Options) -> Autoencoder:
    with tempfile.TemporaryDirectory() as folder:
        return load_autoencoder(imported(name, fixture, Path(folder), options), registry())
