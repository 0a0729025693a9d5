"""A recipe that runs every stage on scikit-learn's digits in seconds, given with changes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import yaml

VIT = {"use": "vit", "depth": 1, "width": 16, "heads": 2}
OWN = {"claims", "my_images", "my_images_small", "openmoji", "quickstart", "smoke"}
"""Shipped recipes that publish no system of others."""

TINY: dict[str, Any] = {
    "recipe": 1,
    "name": "tiny",
    "image": {"size": 16, "stride": 4},
    "latent_dim": 4,
    "dataset": {"use": "digits"},
    "autoencoder": {
        "encoder": VIT,
        "decoder": VIT,
        "regularizer": {"use": "rms_norm"},
        "noise": {"use": "dynamic"},
        "train": {"steps": 2, "batch": 8},
    },
    "latents": {"flip": True},
    "diffusion": {
        "denoiser": {"use": "lightning_dit", "depth": 1, "width": 16, "heads": 2},
        "times": {"use": "logit_normal"},
        "train": {"steps": 4, "batch": 8},
    },
    "runtime": {"report": False},
}


def tiny_recipe(changes: str = "") -> str:
    """The text of `TINY` with `changes` written over it: YAML of the same form, whose sections are merged and whose
    lists and plain values replace."""
    return yaml.safe_dump(_merged(deepcopy(TINY), yaml.safe_load(changes) or {}), sort_keys=False)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        old = below.get(key)
        below[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return below
