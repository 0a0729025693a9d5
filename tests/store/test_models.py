"""An artifact of somebody else: whatever its head says, a message is the end of it, soon and without memory."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gaekit.errors import ArtifactError, GaekitError
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe.load import load_component
from gaekit.store.artifact import KEY, resolve
from gaekit.store.models import (
    Autoencoder,
    AutoencoderSpec,
    DenoiserSpec,
    Statistics,
    load_autoencoder,
    load_denoiser,
    save_autoencoder,
    save_denoiser,
)

VIT = {"depth": 1, "width": 16, "heads": 2}
DIT = {"use": "lightning_dit", "depth": 1, "width": 16, "heads": 2, "patch": 1}
CONV = {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def denoiser(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("denoiser") / "denoiser.safetensors"
    config = load_component("denoiser", DIT, registry, source="test")
    spec = DenoiserSpec(config, 4, 4, ("a", "b"), "linear")
    save_denoiser(path, spec.build(registry).state_dict(), spec, Statistics(torch.zeros(4), torch.ones(4)), {}, {})
    return path


@pytest.fixture(scope="module")
def autoencoder(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("autoencoder") / "autoencoder.safetensors"
    names = {"encoder": {"use": "conv", **CONV}, "decoder": {"use": "vit", **VIT}, "regularizer": {"use": "rms_norm"}}
    parts = {kind: load_component(kind, data, registry, source="test") for kind, data in names.items()}
    spec = AutoencoderSpec(16, 2, 4, **parts)
    save_autoencoder(path, Autoencoder(spec, registry).state_dict(), spec, {}, {})
    return path


def changed(path: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The artifact with what `change` makes of its head."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        head = json.loads(file.metadata()[KEY])
    new = change(head)
    save_file(load_file(path), folder / path.name, metadata={KEY: new if isinstance(new, str) else json.dumps(head)})
    return folder / path.name


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(head: dict[str, Any]) -> None:
        here = head
        for key in keys[:-1]:
            here = here[key]
        here[keys[-1]] = value

    return change


HEADS = {
    "broken": (lambda head: "{", "its head is no JSON"),
    "deep": (lambda head: "[" * 200_000, "its head is no JSON"),
    "a list": (lambda head: "[]", "its head lacks format, kind, config"),
    "no format": (lambda head: '{"kind": "denoiser", "config": {}}', "its head lacks format"),
    "text for a format": (put("format", value="1"), "its head lacks format"),
    "no config": (put("config", value=[]), "its head lacks format, kind, config"),
}


@pytest.mark.parametrize("how", HEADS)
def test_a_head_that_is_none_is_named(denoiser: Path, registry: Registry, tmp_path: Path, how: str) -> None:
    change, told = HEADS[how]
    with pytest.raises(ArtifactError, match=told):
        load_denoiser(changed(denoiser, tmp_path, change), registry)


TOO_LARGE = "a far larger network|cannot be built|larger than any number"
DENOISERS = {
    "deep": (put("config", "denoiser", "depth", value=10**7), "a far larger network than the .* tensors"),
    "deeper": (
        put("config", "denoiser", "depth", value=10**300),
        TOO_LARGE,
    ),
    "wide": (put("config", "denoiser", "width", value=10**6 * 4), "a far larger network"),
    "wider": (
        put("config", "denoiser", "width", value=10**12 * 4),
        TOO_LARGE,
    ),
    "a little deeper": (put("config", "denoiser", "depth", value=2), r"does not fit .*: \d+ missing"),
    "a little wider": (put("config", "denoiser", "width", value=32), r"does not fit .* of another shape"),
    "of many classes": (put("config", "classes", value=["a"] * 100_000), r"of another shape: y_embedder"),
    "of no classes": (put("config", "classes", value="abc"), "has no list of class names"),
    "without a grid": (put("config", "grid", value=0), "has grid: 0; expected a whole number from 1"),
    "of a text": (put("config", "channels", value="4"), "has channels: '4'; expected a whole number"),
    "of a truth": (put("config", "channels", value=True), "has channels: True; expected a whole number"),
    "of a huge grid": (put("config", "grid", value=10**9), "has grid: 1000000000; expected a whole number"),
    "of no path": (put("config", "path", value="x"), r"no known path and betas, but \['x', 'linear'\]"),
    "of no betas": (put("config", "betas", value=[]), r"no known path and betas, but \['linear', \[\]\]"),
    "of no component": (put("config", "denoiser", value=3), "describes no denoiser"),
    "of no name": (put("config", "denoiser", "use", value=["x"]), "unknown|no denoiser|use"),
}


@pytest.mark.parametrize("how", DENOISERS)
def test_a_denoiser_that_its_head_does_not_describe_is_named_soon_and_without_memory(
    denoiser: Path, registry: Registry, tmp_path: Path, how: str
) -> None:
    change, told = DENOISERS[how]
    path = changed(denoiser, tmp_path, change)
    load_denoiser(denoiser, registry)  # torch imports much when it is first used
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GaekitError, match=told) as raised:
        load_denoiser(path, registry)
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert str(path) in str(raised.value) or how == "of no name"


AUTOENCODERS = {
    "of no stride": (put("config", "stride", value=0), "has stride: 0; expected a whole number from 1"),
    "of another stride": (put("config", "stride", value=3), "has a stride of 3 for images of 16 pixels"),
    "of a text": (put("config", "image_size", value="16"), "has image_size: '16'; expected"),
    "without an encoder": (lambda head: head["config"].pop("encoder") and None, "describes no encoder"),
    "of much": (
        put("config", "encoder", "ch", value=10**9 * 32),
        TOO_LARGE,
    ),
    "of many": (put("config", "encoder", "num_res_blocks", value=10**8), "a far larger network"),
    "of many heads": (put("config", "decoder", "heads", value=10**9), "cannot be built: .*heads"),
    "of no latents": (put("config", "latent_dim", value=-1), "has latent_dim: -1"),
}


@pytest.mark.parametrize("how", AUTOENCODERS)
def test_an_autoencoder_that_its_head_does_not_describe_is_named(
    autoencoder: Path, registry: Registry, tmp_path: Path, how: str
) -> None:
    change, told = AUTOENCODERS[how]
    with pytest.raises(ArtifactError, match=told):
        load_autoencoder(changed(autoencoder, tmp_path, change), registry)


def test_whole_artifacts_are_loaded(denoiser: Path, autoencoder: Path, registry: Registry) -> None:
    assert load_denoiser(denoiser, registry).spec.classes == ("a", "b")
    before = torch.random.get_rng_state()
    assert load_autoencoder(autoencoder, registry).spec.grid == 8
    assert not torch.equal(before, torch.random.get_rng_state())  # the network itself was built, with a start


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_statistics_that_are_none_are_named(denoiser: Path, registry: Registry, tmp_path: Path, std: float) -> None:
    path = changed(denoiser, tmp_path, lambda head: None)
    tensors = load_file(path)
    tensors["statistics.std"] = torch.full((4,), std)
    save_file(tensors, path, metadata=_metadata(denoiser))
    with pytest.raises(ArtifactError, match="statistics are not finite or not positive"):
        load_denoiser(path, registry)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_a_pipe_is_not_waited_for(registry: Registry, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "denoiser.safetensors")
    with pytest.raises(ArtifactError, match="a pipe, socket or device; expected a regular file"):
        load_denoiser(tmp_path / "denoiser.safetensors", registry)


def test_a_folder_that_looks_like_a_length_is_none(tmp_path: Path) -> None:
    for name in ("step-\u00b2", "step-5"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-5/x.safetensors").touch()
    assert resolve(tmp_path, "autoencoder", "x.safetensors") == tmp_path / "step-5/x.safetensors"
