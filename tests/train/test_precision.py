"""A precision means the same for matrix products and convolutions, for networks that train and frozen ones, and leaves
nothing behind."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from gaekit.api import Teacher
from gaekit.data.images import ImageBatch
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.stages.features import Features
from gaekit.train import precision as module
from gaekit.train.precision import computing, float32_products, resolve_precision
from gaekit.train.progress import Reporter

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("capability", "meanings"),
    [
        ((9, 0), {"auto": "bf16", "tf32": "tf32", "bf16": "bf16", "float32": "float32"}),
        ((7, 5), {"auto": "float32", "tf32": "float32", "bf16": "bf16", "float32": "float32"}),
    ],
)
def test_auto_and_tf32_mean_what_the_card_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], meanings: dict[str, str]
) -> None:
    class Device:
        def __init__(self, device: torch.device):
            assert device == CUDA

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    def has_bf16(including_emulation: bool = True) -> bool:
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr("torch.cuda.device", Device)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", has_bf16)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert {name: resolve_precision(name, CUDA) for name in meanings} == meanings


def test_a_cpu_has_neither() -> None:
    found = {name: resolve_precision(name, CPU) for name in ("auto", "tf32", "bf16", "float32")}
    assert found == {"auto": "float32", "tf32": "float32", "bf16": "bf16", "float32": "float32"}


@pytest.mark.parametrize("before", [(False, True), (True, False), (False, False)])
def test_products_and_convolutions_are_set_alike_and_restored(before: tuple[bool, bool]) -> None:
    kept = flags()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    try:
        with float32_products("tf32"):
            assert flags() == (True, True)
            with pytest.raises(ValueError, match="within"), computing("float32", CPU):
                assert flags() == (False, False)
                raise ValueError("within")
            with computing("bf16", CPU):
                assert flags() == (False, False)
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
                with computing("float32", CPU):
                    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert flags() == (True, True)
        assert flags() == before
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


class Pooling(nn.Module):
    """Stands in for a teacher: averages of the image, through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Conv2d(3, 5, 4, 4), list[torch.dtype]()

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.layer(image)
        self.seen.append(out.dtype)
        return out


def test_the_teacher_computes_in_the_trainings_precision_and_gives_float32() -> None:
    teacher = Pooling()
    pixels = torch.randint(0, 255, (2, 8, 8, 3), dtype=torch.uint8)
    batch = ImageBatch(pixels, torch.zeros(2), torch.arange(2), torch.zeros(2, dtype=torch.bool), "none")
    found = [Features(cast(Teacher, teacher), name, None).of(batch) for name in ("float32", "bf16")]
    assert teacher.seen == [torch.float32, torch.bfloat16]
    assert [feature.dtype for feature in found] == [torch.float32] * 2
    assert not any(feature.requires_grad for feature in found)
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=2e-2)


def test_every_network_of_a_run_computes_in_its_sections_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_has_tf32", lambda device: True)
    registry, seen = load_plugins(), defaultdict[str, set[tuple[bool, bool]]](set)
    sections = ("semantic.train", "autoencoder.train", "latents", "diffusion.train", "sample")
    changes = [f"{section}.precision=tf32" for section in sections]
    more = ["evaluate=null", "runtime.device=cpu", "runtime.trackers=[]", "sample.count=4", "sample.batch=4"]
    recipe, before = load_recipe("smoke", registry, overrides=[*changes, *more]), flags()

    def note(network: nn.Module, *passed: Any) -> None:
        if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves(passed)):
            return  # FLOP are counted on copies that compute nothing
        seen[type(network).__name__].add(flags())

    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        run_recipe(recipe, registry, out=tmp_path, reporter=Reporter(Console(quiet=True)))
    finally:
        hook.remove()
    assert {"Conv2d", "LightningDiT", "PatchGAN", "Linear"} <= seen.keys()
    assert {name: found for name, found in seen.items() if found != {(True, True)}} == {}
    assert flags() == before
