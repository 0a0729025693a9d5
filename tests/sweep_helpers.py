"""Sweeps over the tiny recipe."""

from __future__ import annotations

from pathlib import Path

from recipe_helpers import tiny_recipe

from gaekit.plugins import Registry
from gaekit.sweeps.definition import read_sweep
from gaekit.sweeps.members import Sweep, check_members

SAMPLED = """
sample: {sampler: {use: euler, steps: 2}, count: 10, batch: 10}
evaluate: {metrics: [{use: psnr}, {use: class_accuracy}]}
runtime: {threads: 1}
"""
GRID = """sweep: 1
name: tries
recipe: tiny.yaml
set:
  diffusion.train.steps: 3
grid:
  diffusion.denoiser.depth: [1, 2]
  sample.guidance.scale: [1.0, 1.5]
seeds: [0, 1]
"""


def write(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    """A sweep's file beside the tiny recipe."""
    (folder / "tiny.yaml").write_text(tiny_recipe(SAMPLED))
    (folder / name).write_text(text)
    return folder / name


def make_sweep(folder: Path, registry: Registry, text: str = GRID) -> Sweep:
    return check_members(read_sweep(write(folder, text), registry), registry)
