"""Pictures of a training's samples: few steps, and no second network but while they are drawn."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stages.test_evaluate import recipe
from torch import Tensor

from gaekit.pipeline.run import run_recipe
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.stages import diffusion
from gaekit.stages.generate import ImageGenerator
from gaekit.store.models import DenoiserSpec
from gaekit.train.progress import Reporter


def test_a_preview_takes_few_steps_and_keeps_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[weakref.ref[Any]] = []
    looks: list[tuple[int, int]] = []
    build, images = DenoiserSpec.build, ImageGenerator.images

    def watched(self: DenoiserSpec, *given: Any) -> Any:
        network = build(self, *given)
        built.append(weakref.ref(network))
        return network

    def counted(self: ImageGenerator, name: str, *given: Any, **more: Any) -> Tensor:
        before = self.evaluations
        found = images(self, name, *given, **more)
        if name == "preview":
            gc.collect()
            looks.append((self.sampler.config.steps, sum(ref() is not None for ref in built)))
            assert self.evaluations - before <= 2 * len(found) * 25
        return found

    monkeypatch.setattr(DenoiserSpec, "build", watched)
    monkeypatch.setattr(ImageGenerator, "images", counted)
    wanted = recipe(None)
    wanted["evaluate"] = None
    wanted["sample"]["sampler"]["steps"] = 250
    wanted["diffusion"]["train"]["steps"] = 3
    wanted["runtime"] |= {"images_every": 1}
    registry = load_plugins()
    found = load_recipe_data(wanted, registry)
    run_recipe(found, registry, out=tmp_path, until="diffusion", reporter=Reporter(Console(quiet=True)))
    assert looks == [(diffusion.PREVIEW_STEPS, 2)] * 3  # the one that trains, and the one that is looked at
