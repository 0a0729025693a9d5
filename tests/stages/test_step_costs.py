"""A step that does not log decides nothing on the host, and copies nothing to the device but its batch."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gaekit import seeds
from gaekit.data.images import ImageBatch
from gaekit.data.latents import LatentBatch
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe
from gaekit.stages import stage_named
from gaekit.stages.data import Data
from gaekit.stages.job import Job
from gaekit.stages.machine import Machine
from gaekit.store.room import Room
from gaekit.train.progress import Reporter
from gaekit.train.training import Training

DECISIONS = ("aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.nonzero", "aten.equal")
"""Each reads a number from the device, and so waits for it."""
CHANGES = (
    "sample=null", "evaluate=null", "runtime.device=cpu", "runtime.trackers=[]", "runtime.threads=1",
    "runtime.log_every=100", "runtime.save_every=100", "runtime.micro_batch=8", "runtime.cache_gb=0",
    "semantic.train.steps=5", "semantic.train.ema=0.9", "autoencoder.train.steps=5", "diffusion.train.steps=5",
    "autoencoder.adversary.start=0", "autoencoder.adversary.adaptive=true", "autoencoder.adversary.diffaug=true",
    "autoencoder.weights.log_variance=0.0", "latents.store=moments", "diffusion.label_dropout=0.5",
)  # fmt: skip


class Decisions(TorchDispatchMode):
    """Notes every operation that reads a number from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).rpartition(".")[0] in DECISIONS:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):
    """Notes every copy of a tensor to torch's meta device, while `on`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.on = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._fused_sgd_.default and args[0][0].is_meta:  # changes its first argument in place
            return None
        out = func(*args, **(kwargs or {}))
        if self.on and "copy" in str(func) and isinstance(out, Tensor) and out.is_meta:
            self.found += [str(func) for t in args if isinstance(t, Tensor) and t.device.type == "cpu"]
        return out


class Made(TorchFunctionMode):
    """Adds to `copies` what is made of Python's numbers on the meta device: to a GPU they would be copied."""

    def __init__(self, copies: Copies) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.copies.on and func in (torch.tensor, torch.as_tensor, torch.asarray) and out.is_meta:
            self.copies.found += [func.__name__] * (not isinstance(args[0], Tensor))
        return out


def load(*more: str) -> tuple[Recipe, Registry]:
    registry = load_plugins()
    return load_recipe("smoke", registry, overrides=[*CHANGES, *more]), registry


def quiet() -> Reporter:
    return Reporter(Console(quiet=True))


def test_the_watch_sees_what_it_is_for() -> None:
    with Decisions() as decisions:
        assert float(torch.ones(())) == 1
        assert torch.ones(3).mean()
    assert len(decisions.found) == 2
    with Copies() as copies, Made(copies):
        copies.on = True
        torch.tensor([1.0]).to("meta")
        torch.empty(3, device="meta").copy_(torch.ones(3))
        torch.tensor(2.0, device="meta")
        torch.empty(3, device="meta").add(1.0)
    assert len(copies.found) == 3


@pytest.mark.parametrize("more", [(), ("autoencoder.train.clip=null", "diffusion.train.clip=null")])
def test_steps_without_logging_read_no_number_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    watch, steps = Decisions(), defaultdict[str, list[list[str]]](list)
    begin, end = Training.__enter__, Training._end_step

    def enter(training: Training) -> Training:
        watch.found = []
        return begin(training)

    def end_step(training: Training, *args: Any) -> None:
        end(training, *args)
        steps[training.host.stage].append(watch.found)
        watch.found = []

    monkeypatch.setattr(Training, "__enter__", enter)
    monkeypatch.setattr(Training, "_end_step", end_step)
    recipe, registry = load(*more)
    with watch:
        run_recipe(recipe, registry, out=tmp_path, reporter=quiet())
    assert set(steps) == {"semantic", "autoencoder", "diffusion"}
    for stage, found in steps.items():
        assert found[1:-1] == [[], [], []], stage  # the first batch of each component is held to its contract


class Enough(Exception):
    """Some steps have been taken."""


@contextmanager
def meta_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    """Have a training run on torch's meta device, a GPU without numbers: to read one raises, and so does mixing its
    tensors with the CPU's. Ends it by Enough after three steps."""
    copies, begin, end = Copies(), Training.__enter__, Training._end_step

    def enter(training: Training) -> Training:
        copies.on = True
        return begin(training)

    def end_step(training: Training, *args: Any) -> None:
        end(training, *args)
        if training.at == 3:
            raise Enough

    def unwatched(batch: type) -> None:
        move = batch.to  # type: ignore[attr-defined]

        def to(self: Any, device: torch.device) -> Any:
            copies.on = False
            moved = move(self, device)
            copies.on = True
            return moved

        monkeypatch.setattr(batch, "to", to)

    for batch in (ImageBatch, LatentBatch):
        unwatched(batch)
    monkeypatch.setattr(Training, "__enter__", enter)
    monkeypatch.setattr(Training, "_end_step", end_step)
    # What torch does not know of its meta device, and of a GPU does:
    generator, autocast = torch.Generator, torch.autocast
    monkeypatch.setattr(seeds.torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(torch, "autocast", lambda device_type, **options: nullcontext() if device_type == "meta"
                        else autocast(device_type, **options))  # fmt: skip
    monkeypatch.setattr(sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["meta"])
    with copies, Made(copies):
        yield copies


def test_steps_copy_nothing_to_the_device_but_their_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, registry = load()
    view = run_recipe(recipe, registry, out=tmp_path, reporter=quiet())
    needs = {"semantic": (), "autoencoder": ("semantic",), "diffusion": ("latents", "autoencoder")}
    for stage, inputs in needs.items():
        machine = Machine(torch.device("meta"), recipe.runtime, quiet())
        found = {name: view.artifact(name) for name in inputs}
        job = Job(stage, recipe, registry, machine, Data(recipe, registry), Room(tmp_path / stage), found, tmp_path)
        with meta_device(monkeypatch) as copies, pytest.raises(Enough):
            stage_named(stage).run(job)
        assert copies.found == [], stage
