"""The arithmetic of `gaekit plan` against the bytes that torch holds and that a run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gaekit.cli import main
from gaekit.pipeline.plan import make_plan
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Runtime, Train
from gaekit.sizing.budget import cache_bytes, checkpoints_kept, disk_of_stages, memory_of_stages
from gaekit.sizing.describe import trained_networks
from gaekit.stages.network import Network
from gaekit.store.models import DenoiserSpec
from gaekit.train.ema import EMA
from gaekit.train.optim import make_optimizer, optimizer_tensors

REGISTRY = load_plugins()


def smoke(*changes: str):
    return load_recipe("smoke", REGISTRY, overrides=changes)


def bytes_of(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def test_a_layer_of_three_to_five_by_hand() -> None:
    layer = Network("diffusion", "denoiser", nn.Linear(3, 5), averaged=True)
    (alone,) = memory_of_stages(smoke(), [layer], 1)
    assert (alone.weights, alone.gradients, alone.averages) == (80, 80, 80)  # 15 + 5 numbers of 4 bytes
    assert alone.optimizer == 2 * 80 + 2 * 4  # two moments, and a count for each of two tensors
    assert alone.previews == 80
    assert alone.copied == layer.checkpoint == 80 + 168 + 80
    (sharded,) = memory_of_stages(smoke("runtime.strategy=fsdp"), [layer], 2)
    assert sharded.weights == sharded.gradients == sharded.averages == 4 * (3 * 3 + 3)  # three of five rows
    (offloaded,) = memory_of_stages(smoke("runtime.ema_offload=true"), [layer], 1)
    assert (offloaded.averages, offloaded.offloaded) == (0, 160)  # and the copies that they take in


def test_the_denoisers_memory_is_what_torch_holds_for_it() -> None:
    recipe = smoke()
    section = recipe.diffusion
    spec = DenoiserSpec(section.denoiser, recipe.latent_dim, recipe.image.grid, tuple("0123456789"), section.path)
    network = spec.build(REGISTRY)
    optimizer = make_optimizer(network, section.train)
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    averages = EMA(network, 0.9).tensors
    held = {
        "weights": bytes_of((*network.parameters(), *network.buffers())),
        "gradients": bytes_of(p.grad for p in trained if p.grad is not None),
        "optimizer": bytes_of(optimizer_tensors(optimizer, network).values()),
        "averages": bytes_of(averages[name] for name, p in network.named_parameters() if p.requires_grad),
    }
    found = next(
        m for m in memory_of_stages(recipe, trained_networks(recipe, REGISTRY, 10), 1) if m.stage == "diffusion"
    )
    assert {name: getattr(found, name) for name in held} == held
    assert found.copied == bytes_of(network.state_dict().values()) + held["optimizer"] + bytes_of(averages.values())


@pytest.mark.parametrize("recipe", ["rae_dinov2_b", "dit_xl2", "ablations/kl", "my_images"])
def test_the_networks_of_other_published_recipes_are_told_without_memory(recipe: str) -> None:
    networks = trained_networks(load_recipe(recipe, REGISTRY), REGISTRY, None)
    assert networks
    assert all(p.is_meta for n in networks for p in n.module.parameters())
    assert all(m.device > 0 for m in memory_of_stages(load_recipe(recipe, REGISTRY), networks, 8))


@pytest.mark.parametrize("nproc", [2, 3, 8])
def test_a_shard_is_the_first_of_torchs_chunks(nproc: int) -> None:
    recipe = smoke("runtime.strategy=fsdp")
    networks = [n for n in trained_networks(recipe, REGISTRY, 10) if n.stage == "autoencoder"]
    found = next(m for m in memory_of_stages(recipe, networks, nproc) if m.stage == "autoencoder")
    cut = {n.name: 1 if n.name == "adversary" else nproc for n in networks}  # `OptimizerOverrides(sharded=False)`
    assert found.gradients == sum(4 * torch.chunk(p, cut[n.name])[0].numel() for n in networks for p in n.trained)


def test_a_fitted_aligner_trains_in_one_stage_and_is_frozen_in_the_next() -> None:
    aligners = {n.stage: n for n in trained_networks(smoke(), REGISTRY, 10) if n.name == "aligner"}
    assert aligners["semantic"].trained
    assert not aligners["autoencoder"].trained


@pytest.mark.parametrize(
    ("steps", "runtime", "count"),
    [
        (100, {"save_every": 1000, "keep": 2}, 1),
        (100, {"save_every": 50, "keep": 2}, 2),
        (10_000, {"save_every": 1000, "keep": 2}, 3),
        (10_000, {"save_every": 1000, "keep": 2, "keep_every": 5000}, 5),
    ],
)
def test_checkpoints_are_counted_with_the_one_being_written(steps: int, runtime: dict[str, int], count: int) -> None:
    assert checkpoints_kept(Runtime.model_validate(runtime), Train(steps=steps, batch=1)) == count


def test_imagenets_latents_take_84_gb() -> None:
    recipe = load_recipe("gae_d32", REGISTRY)
    assert cache_bytes(recipe, 1_281_167) == 1_281_167 * 2 * 4 * 32 * 16 * 16  # the recipe's head says 84 GB
    assert cache_bytes(recipe, 1_281_167) == pytest.approx(84e9, rel=0.01)


def test_disk_is_counted_for_what_is_not_cached(tmp_path: Path) -> None:
    recipe = smoke()
    plan = make_plan(recipe, REGISTRY, tmp_path)
    networks = trained_networks(recipe, REGISTRY, 10)
    assert {d.stage for d in disk_of_stages(recipe, REGISTRY, networks, 1438, plan)} == {
        "semantic", "autoencoder", "latents", "diffusion", "sample",
    }  # fmt: skip
    plan["diffusion"].status = "cached"
    assert "diffusion" not in {d.stage for d in disk_of_stages(recipe, REGISTRY, networks, 1438, plan)}
    unknown = [d.what for d in disk_of_stages(recipe, REGISTRY, networks, None, plan) if d.size is None]
    assert unknown == ["cache"]


def test_plan_tells_the_published_sizes_and_the_memory_of_a_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "gae_d32", "--nproc", "8"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith(("encoder", "decoder", "denoiser"))}
    assert "310.4M" in lines["encoder"]
    assert "309.4M" in lines["decoder"]
    assert "675.3M" in lines["denoiser"]
    (diffusion,) = (line for line in out.splitlines() if line.startswith("diffusion") and "2 x 64" in line)
    # 1024 images over 8 processes, 64 a pass; 675 million float32: weights, gradients, averages
    assert diffusion.count("2.7 GB") == 3
    assert "\ndiffusion    rank 0: copy for checkpoints " in out
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_does_not_divide_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "smoke", "--nproc", "3"]) == 2
    assert "a batch of 16 does not divide over 3 processes; 15 or 18 would" in capsys.readouterr().err
