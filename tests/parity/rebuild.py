"""Components out of a fixture by the path of `gaekit import`: a checkpoint file, an artifact, what a run loads."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import torch
from parity.fixture import Fixture
from safetensors.torch import save_file

from gaekit.api import Denoiser
from gaekit.interop.diffusers_folder import CONFIG, WEIGHTS
from gaekit.interop.formats import Options
from gaekit.interop.importing import import_file
from gaekit.interop.repa_e import BESIDE
from gaekit.plugins import Registry, load_plugins
from gaekit.store.models import Autoencoder, load_autoencoder, load_denoiser


@cache
def registry() -> Registry:
    return load_plugins()


def imported(name: str, fixture: Fixture, folder: Path, options: Options) -> Path:
    """The artifact of the fixture's state as a file of the format `name`, REPA-E's statistics beside it."""
    file = folder / "published.pt"
    torch.save({"state_dict": fixture.state}, file)
    if name == "e2e-vae":
        statistics = {key: fixture.inputs[key] for key in ("latents_bias", "latents_scale")}
        torch.save(statistics, folder / f"published{BESIDE}")
    return import_file(name, file, folder / "imported", options, registry()).artifact


def diffusers_folder(fixture: Fixture, folder: Path) -> Path:
    """The fixture as the folder that diffusers writes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(fixture.state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(fixture.config["settings"]))
    return folder


def diffusers_autoencoder(name: str, fixture: Fixture, options: Options) -> Autoencoder:
    with tempfile.TemporaryDirectory() as folder:
        file = diffusers_folder(fixture, Path(folder) / "theirs")
        taken = import_file(name, file, Path(folder) / "taken", options, registry())
        return load_autoencoder(taken.artifact, registry())


def denoiser(name: str, fixture: Fixture, options: Options) -> Denoiser:
    with tempfile.TemporaryDirectory() as folder:
        return load_denoiser(imported(name, fixture, Path(folder), options), registry()).network


def autoencoder(name: str, fixture: Fixture, options: Options) -> Autoencoder:
    with tempfile.TemporaryDirectory() as folder:
        return load_autoencoder(imported(name, fixture, Path(folder), options), registry())
