"""The same recipe on CUDA: attention backends agree, bf16 and compile train, losses and gradients are the CPU's but for
rounding, and a step does not wait for the host."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from gaekit.api import Aligner, Denoiser, Draws, NoiseSampler
from gaekit.flow.objective import flow_matching
from gaekit.flow.path import Linear
from gaekit.nn.attention import Attention, AttentionProbe, attend, choose_backend, use_backend
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Registry, build, load_plugins
from gaekit.recipe import load_component, load_recipe
from gaekit.recipe.schema import Autoencoder as Section
from gaekit.recipe.schema import Runtime, Train
from gaekit.runs.bill import bill
from gaekit.runs.opened import open_run
from gaekit.stages.autoencoder import Objective
from gaekit.store.models import Autoencoder, AutoencoderSpec
from gaekit.store.room import Room
from gaekit.train.progress import Reporter
from gaekit.train.track import Trackers
from gaekit.train.training import Host, Training
from gaekit.values import GeneratorDraws, Loss, Losses

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
QUIET = Reporter(Console(quiet=True))
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


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


def small_denoiser(registry: Registry, depth: int = 2) -> Denoiser:
    """A LightningDiT none of whose weights is zero."""
    settings = {"use": "lightning_dit", "depth": depth, "width": 128, "heads": 2}
    config = load_component("denoiser", settings, registry, source="test")
    torch.manual_seed(0)
    denoiser = build(Denoiser, config, registry, channels=4, grid=16, classes=10)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.05)
    return denoiser


def test_a_denoiser_is_the_same_under_every_backend() -> None:
    xformers_or_skip(torch.float32)
    denoiser = small_denoiser(load_plugins()).cuda()
    assert any(isinstance(part, Attention) for part in denoiser.modules())
    x, t = torch.randn(2, 4, 16, 16, device="cuda"), torch.rand(2, device="cuda")
    label = torch.tensor([1, 10], device="cuda")
    outs = []
    for backend in ("math", "sdpa", "xformers"):
        use_backend(denoiser, backend)  # type: ignore[arg-type]
        outs.append(denoiser(x, t, label).out_BDHW)
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("compiled", ["false", "auto"])
def test_a_recipe_trains_samples_and_resumes_in_bf16(tmp_path: Path, compiled: str) -> None:
    (tmp_path / "cuda.yaml").write_text(RECIPE)
    registry = load_plugins()
    recipe = load_recipe(tmp_path / "cuda.yaml", registry, overrides=[f"runtime.compile={compiled}"])
    view = run_recipe(recipe, registry, out=tmp_path / "runs", reporter=QUIET)
    assert all(entry["status"] == "done" for entry in view.record["stages"].values())
    images = open_run(view.path, registry, QUIET).sample([0, 1, 2], 3).tensors
    assert images.shape == (3, 3, 16, 16)
    longer = load_recipe(tmp_path / "cuda.yaml", registry, overrides=["diffusion.train.steps=9"])
    again = run_recipe(longer, registry, out=tmp_path / "runs", reporter=QUIET)
    assert again.record["stages"]["diffusion"]["record"]["steps"] == 9
    assert again.record["stages"]["autoencoder"]["status"] == "cached"
    paid = {stage.stage: stage for stage in bill(again).stages}
    first, second = paid["diffusion"].attempts
    assert first.device == torch.cuda.get_device_name()
    assert (first.steps, second.steps) == (6, 3)
    assert all(stage.flop for stage in paid.values())
    assert not any(attempt.uncounted for stage in paid.values() for attempt in stage.attempts)


def close(ours: dict[str, Tensor], reference: dict[str, Tensor], share: float) -> None:
    """Within a share of the largest number of each tensor, and none of them all zero."""
    assert ours.keys() == reference.keys()
    for name, expected in reference.items():
        largest = float(expected.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(
            ours[name].cpu(), expected, rtol=0, atol=share * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("precision", "share"), [(None, 1e-3), (torch.bfloat16, 0.1)])
def test_losses_and_gradients_of_a_denoiser_are_the_cpus(precision: torch.dtype | None, share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    latent, noise = (torch.randn(8, 4, 16, 16, generator=generator) for _ in range(2))
    t, label = torch.rand(8, generator=generator), torch.arange(8)
    found = []
    for device in ("cpu", "cuda"):
        denoiser = small_denoiser(load_plugins()).to(device)
        given = (part.to(device) for part in (t, latent, label, noise))
        with torch.autocast(
            device, dtype=precision or torch.bfloat16, enabled=precision is not None and device == "cuda"
        ):
            losses = flow_matching(denoiser, Linear(), *given, predicts="velocity", weighting="none", cosine=1.0)
        torch.stack([loss.weighted.float() for loss in losses.values()]).sum().backward()
        gradients = {name: p.grad for name, p in denoiser.named_parameters() if p.grad is not None}
        found.append(gradients | {name: loss.value.detach().float() for name, loss in losses.items()})
    close(found[1], found[0], share)


@dataclass
class GivenStep:
    """Stands for a training's step: its draws are the CPU's, wherever they are used."""

    device: str

    def draws(self, name: str) -> Draws:
        return GeneratorDraws(4, torch.Generator().manual_seed(5), self.device)


def test_losses_and_gradients_of_an_autoencoder_are_the_cpus(tmp_path: Path) -> None:
    (tmp_path / "cuda.yaml").write_text(RECIPE)
    registry = load_plugins()
    recipe = load_recipe(tmp_path / "cuda.yaml", registry)
    section = recipe.autoencoder
    assert isinstance(section, Section)
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        spec = AutoencoderSpec.of_recipe(recipe)
        assert spec is not None
        model = Autoencoder(spec, registry).to(device)
        aligner = build(Aligner, recipe.aligner, registry, feature_dim=0, latent_dim=4, hidden_dim=64, grid=4)
        objective = Objective(section, aligner, None, build(NoiseSampler, section.noise, registry)).to(device)
        fake, losses = objective(model, image.to(device), None, GivenStep(device))
        torch.stack([loss.weighted.float() for loss in losses.values()]).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append(
            gradients | {"image": fake.detach()} | {name: loss.value.detach() for name, loss in losses.items()}
        )
    close(found[1], found[0], 1e-3)


@dataclass
class Latents:
    """A batch of latents in pinned memory."""

    latent: Tensor

    def part(self, first: int, last: int) -> Latents:
        return Latents(self.latent[first:last])

    def to(self, device: torch.device) -> Latents:
        return Latents(self.latent.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.latent)


def pinned_latents(start: int, first: int, last: int) -> Iterator[Latents]:
    latent = torch.randn(last - first, 4, 16, 16).pin_memory()
    while True:
        yield Latents(latent)


def denoising(training: Training, step: object, batch: Latents) -> Losses:
    """The losses of a denoiser of class 0 at this step."""
    draws = step.draws  # type: ignore[attr-defined]
    t, noise = draws("time").uniform(), draws("noise").normal(4, 16, 16)
    label = torch.zeros(len(batch), dtype=torch.int64, device=t.device)
    with training.autocast():
        return flow_matching(
            training["denoiser"],
            Linear(),
            t,
            batch.latent,
            label,
            noise,
            predicts="velocity",
            weighting="none",
            cosine=1.0,
        )


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_does_not_log_never_waits_for_the_device(tmp_path: Path, clip: float | None) -> None:
    runtime = Runtime(trackers=(), save_every=1000, log_every=1000, micro_batch=8)
    host = Host("t", 0, Room(tmp_path), runtime, torch.device("cuda"), QUIET, lambda step: Trackers([]))
    settings = Train(steps=20, batch=16, lr=1e-3, ema=0.99, clip=clip, precision="bf16")
    with Training(settings, {"denoiser": small_denoiser(load_plugins()).cuda()}, host) as training:
        for step, batch in training.steps(pinned_latents):
            if step.index == 3 and step.first == 0:
                torch.cuda.set_sync_debug_mode("error")
            training.update("denoiser", denoising(training, step, batch))
            if step.index == 12:
                torch.cuda.set_sync_debug_mode("default")
    assert training.at == 20


def test_a_step_that_is_not_finite_changes_nothing_on_the_device(tmp_path: Path) -> None:
    runtime = Runtime(trackers=(), save_every=1000, log_every=1)
    host = Host("t", 0, Room(tmp_path), runtime, torch.device("cuda"), QUIET, lambda step: Trackers([]))
    network = nn.Linear(16, 16).cuda()
    seen: list[Tensor] = []
    with Training(Train(steps=4, batch=4, lr=0.1), {"net": network}, host) as training:
        for step, batch in training.steps(pinned_latents):
            seen.append(network.weight.detach().clone())
            value = training["net"](batch.latent).square().mean()
            training.update("net", {"loss": Loss(value * (math.nan if step.index == 1 else 1.0))})
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], seen[3])
    assert training.skipped == 1


@needs_two
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_cards_train_to_the_weights_of_one(tmp_path: Path, strategy: str) -> None:
    recipe = RECIPE.replace("auto", "float32")
    (tmp_path / "cuda.yaml").write_text(recipe)
    weights = []
    for name, more in (("one", []), ("two", ["--nproc", "2", "--set", f"runtime.strategy={strategy}"])):
        command = [sys.executable, "-m", "gaekit", "run", "cuda.yaml", "--out", name, "--until", "diffusion", *more]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=150, capture_output=True)
        (file,) = (tmp_path / name / "store" / "diffusion").rglob("denoiser.safetensors")
        weights.append(load_file(file))
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-2, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")
