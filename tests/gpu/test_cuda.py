"""The same recipe on CUDA: attention backends agree, bf16 and compile train, the CPU's numbers but for rounding."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gaekit.api import Denoiser
from gaekit.nn.attention import Attention, AttentionProbe, attend, choose_backend, use_backend
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import build, load_plugins
from gaekit.recipe import load_component, load_recipe
from gaekit.runs.opened import open_run
from gaekit.train.progress import Reporter

pytestmark = pytest.mark.gpu

RECIPE = """
recipe: 1
name: cuda
image: {size: 16, stride: 4}
latent_dim: 4
dataset: {use: digits}
autoencoder:
  encoder: {use: vit, depth: 1, width: 64, heads: 2}
  decoder: {use: vit, depth: 1, width: 64, heads: 2}
  regularizer: {use: rms_norm}
  noise: {use: dynamic}
  adversary: {channels: 8, layers: 1, start: 2}
  train: {steps: 6, batch: 32, lr: 1e-3, precision: auto}
latents: {flip: true, precision: auto}
diffusion:
  denoiser: {use: lightning_dit, depth: 1, width: 64, heads: 2}
  times: {use: logit_normal}
  train: {steps: 6, batch: 32, ema: 0.9, precision: auto}
sample: {sampler: {use: euler, steps: 3}, count: 20, batch: 10, guidance: {scale: 2.0}}
evaluate: {metrics: [{use: psnr}]}
runtime: {device: cuda, save_every: 3, trackers: []}
"""


def xformers_or_skip(dtype: torch.dtype) -> None:
    choice = choose_backend(
        "auto", device=torch.device("cuda"), dtype=dtype, heads=4, head_dim=64, tokens=256, probe=AttentionProbe()
    )
    if choice.backend != "xformers":
        pytest.skip(choice.reason)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["xformers", "sdpa"])
def test_attention_agrees_in_outputs_and_gradients(backend: str, dtype: torch.dtype) -> None:
    if backend == "xformers":
        xformers_or_skip(dtype)
    inputs = torch.randn(3, 2, 256, 4, 64, device="cuda", dtype=torch.float32)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    results = []
    for name, kind in ((backend, dtype), ("math", torch.float32)):
        leaf = inputs.to(kind).detach().requires_grad_()
        out = attend(*leaf.unbind(0), name)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(out.float().square().sum(), leaf)
        results.append((out.float(), gradient.float()))
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance * float(reference.abs().max()))


def test_a_denoiser_is_the_same_under_every_backend() -> None:
    xformers_or_skip(torch.float32)
    registry = load_plugins()
    config = load_component(
        "denoiser", {"use": "lightning_dit", "depth": 2, "width": 128, "heads": 2}, registry, source="test"
    )
    denoiser = build(Denoiser, config, registry, channels=4, grid=16, classes=10).cuda()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    assert any(isinstance(part, Attention) for part in denoiser.modules())
    x, t, label = (
        torch.randn(2, 4, 16, 16, device="cuda"),
        torch.rand(2, device="cuda"),
        torch.tensor([1, 10], device="cuda"),
    )
    outs = []
    for backend in ("math", "sdpa", "xformers"):
        use_backend(denoiser, backend)  # type: ignore[arg-type]
        outs.append(denoiser(x, t, label).out_BDHW)
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_recipe_trains_samples_and_resumes_in_bf16(tmp_path: Path, compiled: bool) -> None:
    (tmp_path / "cuda.yaml").write_text(RECIPE)
    registry, reporter = load_plugins(), Reporter(Console(quiet=True))
    recipe = load_recipe(tmp_path / "cuda.yaml", registry, overrides=[f"runtime.compile={str(compiled).lower()}"])
    view = run_recipe(recipe, registry, out=tmp_path / "runs", reporter=reporter)
    assert all(entry["status"] == "done" for entry in view.record["stages"].values())
    images = open_run(view.path, registry, reporter).sample([0, 1, 2])
    assert images.shape == (3, 16, 16, 3)
    longer = load_recipe(tmp_path / "cuda.yaml", registry, overrides=["diffusion.train.steps=9"])
    run_recipe(longer, registry, out=tmp_path / "runs", reporter=reporter)


def test_float32_training_on_cuda_is_the_cpus_but_for_rounding(tmp_path: Path) -> None:
    registry, values = load_plugins(), []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        (folder / "cuda.yaml").write_text(
            RECIPE.replace("auto", "float32").replace("device: cuda", f"device: {device}")
        )
        recipe = load_recipe(folder / "cuda.yaml", registry)
        view = run_recipe(
            recipe, registry, out=folder / "runs", reporter=Reporter(Console(quiet=True)), until="autoencoder"
        )
        run = open_run(view.path, registry, Reporter(Console(quiet=True)))
        picture = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
        values.append(next(run.reconstruct(iter([picture]))).float().mean().item())
    assert math.isclose(*values, abs_tol=2.0)
