"""`gaekit plan --measure` on a card: memory as CUDA counts it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.sizing.budget import memory_of_stages
from gaekit.sizing.describe import trained_networks
from gaekit.sizing.measure import Rehearsal, _rehearsed
from gaekit.stages import diffusion

pytestmark = pytest.mark.gpu


def test_the_peak_of_a_denoiser_is_above_the_arithmetic_and_below_all_of_the_card(tmp_path: Path) -> None:
    registry = load_plugins()
    changes = [
        "diffusion.denoiser={use: lightning_dit, depth: 4, width: 512, heads: 8}",
        "sample=null",
        "evaluate=null",
    ]
    recipe = load_recipe("smoke", registry, overrides=changes)
    rehearsal = Rehearsal(_rehearsed(recipe, registry, 1438), registry, torch.device("cuda"), tmp_path, 10)
    found = rehearsal.measure(diffusion.STAGE)
    (least,) = memory_of_stages(recipe, trained_networks(recipe, registry, 10)[-1:], 1)
    assert found.seconds is not None
    assert found.peak is not None
    assert found.peak_of == "tensors on the device"
    assert least.device < found.peak < torch.cuda.get_device_properties(0).total_memory
