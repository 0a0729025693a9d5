"""Every denoiser with every sampler, and the parts of autoencoders with each other: what fits runs, or is refused."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gaekit.errors import GaekitError, RecipeError
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.train.progress import Reporter

REGISTRY = load_plugins()
SMALL = {"depth": 1, "width": 16, "heads": 2}
DENOISERS: dict[str, dict[str, Any]] = {"dit_dh": {"decoder_depth": 1, "decoder_width": 16, "decoder_heads": 2}}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": SMALL,
    "conv": {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1},
    "frozen_teacher": {"teacher": {"use": "efficientnet_lite0", "layer": "stage2"}},
}
DECODERS = {"vit": SMALL, "conv": ENCODERS["conv"], "frozen_teacher": SMALL}
ALIGNERS: dict[str, dict[str, Any]] = {"latent": {"head_dim": 24}}
WIDTHS = {"frozen_teacher": 24}


def recipe(width: int = 4) -> dict[str, Any]:
    return {
        "recipe": 1,
        "name": "pair",
        "image": {"size": 16, "stride": 4},
        "latent_dim": width,
        "dataset": {"use": "digits"},
        "autoencoder": {
            "encoder": {"use": "vit", **SMALL},
            "decoder": {"use": "vit", **SMALL},
            "regularizer": {"use": "rms_norm"},
            "noise": {"use": "constant"},
            "train": {"steps": 2, "batch": 4},
        },
        "runtime": {"trackers": [], "save_every": 2, "threads": 1},
    }


def run(data: dict[str, Any], folder: Path) -> None:
    view = run_recipe(load_recipe_data(data, REGISTRY), REGISTRY, out=folder, reporter=Reporter(Console(quiet=True)))
    assert {entry["status"] for entry in view.record["stages"].values()} <= {"done", "cached"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs: rooms that several pairs share are made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("path", ["linear", "gvp", "vp", "ddpm"])
@pytest.mark.parametrize("denoiser", sorted(REGISTRY.classes["denoiser"]))
def test_denoisers_train_and_samplers_sample_or_say_why_not(shared: Path, denoiser: str, path: str) -> None:
    """Two steps of training, then two of every sampler."""
    for sampler in sorted(REGISTRY.classes["sampler"]):
        data = recipe() | {
            "latents": {},
            "diffusion": {
                "path": path,
                "denoiser": {"use": denoiser, **SMALL, **DENOISERS.get(denoiser, {}), "patch": 1},
                "times": {"use": "uniform"},
                "train": {"steps": 2, "batch": 4},
            },
            "sample": {"sampler": {"use": sampler}, "count": 4, "batch": 4},
        }
        settings = REGISTRY.find("sampler", sampler).Config.model_fields
        if "steps" in settings:
            data["sample"]["sampler"]["steps"] = 2
        predicts = "noise" if denoiser == "dit" else "velocity"
        fits = (sampler in ("ddpm", "ddim")) == (path == "ddpm") and not (path == "ddpm" and predicts == "velocity")
        if fits:
            run(data, shared)
        else:
            with pytest.raises(RecipeError, match=r"needs the field's|does not have|goes with"):
                load_recipe_data(data, REGISTRY)


AUTOENCODERS = list(product(ENCODERS, sorted(REGISTRY.classes["regularizer"])))


@pytest.mark.parametrize(("encoder", "regularizer"), AUTOENCODERS)
def test_encoders_regularizers_and_noises_train_together(shared: Path, encoder: str, regularizer: str) -> None:
    for noise in sorted(REGISTRY.classes["noise"]):
        data = recipe(WIDTHS.get(encoder, 4))
        data["autoencoder"] |= {
            "encoder": {"use": encoder, **ENCODERS[encoder]},
            "decoder": {"use": "conv" if encoder == "conv" else "vit", **DECODERS[encoder]},
            "regularizer": {"use": regularizer},
            "noise": {"use": noise},
        }
        if (encoder, regularizer) == ("frozen_teacher", "kl"):  # features are no pair of mean and log-variance
            with pytest.raises(GaekitError, match="latent_dim"):
                run(data, shared)
        else:
            run(data, shared)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("aligner", sorted(REGISTRY.classes["aligner"]))
def test_aligners_go_with_every_encoder(shared: Path, aligner: str, encoder: str) -> None:
    width = WIDTHS.get(encoder, 4)
    data = recipe(width)
    data["autoencoder"] |= {
        "encoder": {"use": encoder, **ENCODERS[encoder]},
        "decoder": {"use": "conv" if encoder == "conv" else "vit", **DECODERS[encoder]},
    }
    data |= {
        "teacher": {"use": "efficientnet_lite0", "layer": "stage2"},
        "aligner": {"use": aligner, **ALIGNERS.get(aligner, {})},
        "semantic": {"train": {"steps": 2, "batch": 4}, "images": 64},
    }
    run(data, shared)
