"""What several series of samples are compared with is taken in once for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import Tiny, to_float
from rich.console import Console
from torch import Tensor

from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Plugin, load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.train.progress import Reporter
from gaekit_metrics.fid import Fid
from gaekit_metrics.inception import Features

SMALL = {"use": "vit", "depth": 1, "width": 16, "heads": 2}
REAL, SAMPLES = 7, 5
LOOKED_AT: list[int] = []
"""Of each call of the network, how many images: a copy of a metric copies its network too."""


class Noted(Tiny):
    """Notes down what it looks at."""

    def __call__(self, pixel_B3RR: Tensor) -> Features:
        LOOKED_AT.append(len(pixel_B3RR))
        return super().__call__(pixel_B3RR)


class NotedFid(Fid):
    """FID by a small network."""

    name = "noted_fid"

    def __init__(self, config: Any, **sizes: Any):
        super().__init__(config, extractor=Noted(), **sizes)


def recipe(reference: Path) -> dict[str, Any]:
    return {
        "recipe": 1,
        "name": "tiny",
        "image": {"size": 16, "stride": 4},
        "latent_dim": 4,
        "dataset": {"use": "digits"},
        "autoencoder": {"encoder": SMALL, "decoder": SMALL, "regularizer": {"use": "rms_norm"},
                        "noise": {"use": "constant"}, "train": {"steps": 1, "batch": 4}},
        "latents": {},
        "diffusion": {"denoiser": {**SMALL, "use": "sit", "patch": 1}, "times": {"use": "uniform"},
                      "train": {"steps": 1, "batch": 4}},
        "sample": {"sampler": {"use": "euler", "steps": 1}, "guidance": {"scale": 2.0}, "also_unguided": True,
                   "count": SAMPLES, "batch": SAMPLES},
        "evaluate": {"metrics": [{"use": "noted_fid", "weights": "random", "reference": str(reference)}]},
        "runtime": {"trackers": [], "threads": 1},
    }  # fmt: skip


def test_a_reference_of_a_file_is_looked_at_once_for_two_series(tmp_path: Path) -> None:
    pixels = torch.randint(256, (REAL, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=pixels.permute(0, 2, 3, 1).numpy())
    registry = load_plugins()
    registry.add(NotedFid, Plugin("test", "gaekit", "0", "test"))
    LOOKED_AT.clear()
    found = load_recipe_data(recipe(tmp_path / "reference.npz"), registry)
    view = run_recipe(found, registry, out=tmp_path / "runs", reporter=Reporter(Console(quiet=True)))
    assert sorted(LOOKED_AT) == [SAMPLES, SAMPLES, REAL]
    numbers = json.loads((view.path / "metrics.json").read_text())
    assert sorted(numbers) == ["samples/fid", "samples_unguided/fid"]
    assert {entry["protocol"]["reference"]["n"] for entry in numbers.values()} == {REAL}
    for series in ("samples", "samples_unguided"):
        alone = NotedFid(NotedFid.Config(use="noted_fid", weights="random", reference=str(tmp_path / "reference.npz")),
                         image_size=16, classes=())  # fmt: skip
        alone.ready(torch.device("cpu"))
        with np.load(view.path / f"{series}.npz") as images:
            alone.update(to_float(torch.from_numpy(images["arr_0"]).permute(0, 3, 1, 2)), torch.zeros(SAMPLES))
        assert numbers[f"{series}/fid"]["value"] == pytest.approx(alone.compute()["fid"], rel=1e-6)


def test_samples_before_the_reference_is_read_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "reference.npz", arr_0=np.zeros((2, 16, 16, 3), np.uint8))
    config = NotedFid.Config(use="noted_fid", weights="random", reference=str(tmp_path / "reference.npz"))
    made = NotedFid(config, image_size=16, classes=())
    with pytest.raises(TypeError, match="'noted_fid': `ready` comes before `update`"):
        made.update(torch.zeros(2, 3, 16, 16), torch.zeros(2))
