"""What `runtime` says of the machine holds in every command, and what cannot be done is said once."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from recipe_helpers import tiny_recipe
from rich.console import Console
from torch import Tensor, nn

from gaekit.cli import main
from gaekit.nn.attention import Choice
from gaekit.recipe.schema import Runtime
from gaekit.stages.machine import Machine, open_machine
from gaekit.train.progress import Reporter

RECIPE = tiny_recipe("""
diffusion: {train: {batch: 16}}
sample: {sampler: {use: euler, steps: 2}, count: 10}
runtime: {trackers: [], threads: 1}
""")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "runs"), "--until", "diffusion"]) == 0
    (folder / "images").mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "images" / "one.png")
    return folder / "runs" / "tiny"


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch as another program left it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("command", ["run", "sample", "reconstruct", "likelihood", "plan"])
def test_threads_of_the_recipe_hold_in_every_command(
    command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, images = str(run.parent.parent / "tiny.yaml"), str(run.parent.parent / "images")
    arguments = {
        "run": [recipe, "--out", str(run.parent), "--until", "autoencoder", "--name", "other"],
        "sample": [str(run), "--out", str(tmp_path / "made.png"), "--count", "1"],
        "reconstruct": [str(run), images, "--out", str(tmp_path)],
        "likelihood": [str(run), "--count", "1"],
        "plan": [recipe, "--measure", "--out", str(run.parent)],
    }
    monkeypatch.setattr("gaekit.sizing.measure.MOST_STEPS", 1)
    assert main([command, *arguments[command]]) == 0
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("two_threads")
def test_without_threads_torch_keeps_its_own() -> None:
    open_machine(Runtime(device="cpu"), Reporter(Console(quiet=True)))
    assert torch.get_num_threads() == 2


def test_what_does_not_train_is_not_complained_of_and_the_rest_once() -> None:
    said = StringIO()
    reporter = Reporter(Console(file=said, width=200))
    machine = Machine(torch.device("cpu"), Runtime(checkpointing=True), reporter)
    machine.prepare(nn.Linear(2, 2).requires_grad_(False))
    assert not said.getvalue()
    for _ in range(2):
        machine.prepare(nn.Linear(2, 2))
    assert said.getvalue() == "  runtime.checkpointing: Linear has no blocks to recompute, it keeps its activations\n"


class Stack(nn.Module):
    """A network of two repeated blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def regions(self) -> nn.ModuleList:
        return self.blocks

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("setting", "device", "triton", "network", "expected"),
    [
        ("auto", "cpu", True, Stack, []),
        ("auto", "cuda", True, Stack, ["Linear", "Linear"]),
        ("auto", "cuda", True, nn.Identity, []),
        ("auto", "cuda", False, Stack, []),
        (True, "cpu", False, Stack, ["Linear", "Linear"]),
        (True, "cuda", True, nn.Identity, ["Identity"]),
        (False, "cuda", True, Stack, []),
    ],
)
def test_what_is_compiled(
    setting: bool | str,
    device: str,
    triton: bool,
    network: type[nn.Module],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled, said = list[str](), StringIO()
    # There is no CUDA device here: networks stay where they are, and what would be compiled is noted.
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(nn.Module, "compile", lambda self, backend: compiled.append(type(self).__name__))
    monkeypatch.setattr("gaekit.stages.machine.set_attention", lambda *arguments: None)
    monkeypatch.setattr("gaekit.stages.machine.has_triton", lambda: triton)
    runtime = Runtime() if setting == "auto" else Runtime(compile=setting)  # auto is the default
    machine = Machine(torch.device(device), runtime, Reporter(Console(file=said, width=200)))
    machine.prepare(network())
    assert compiled == expected
    assert ("runtime.compile: nothing is compiled" in said.getvalue()) == (not triton and expected == [])
    machine.prepare(network(), compiled=False)
    assert compiled == expected


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Choice("sdpa", "xformers cannot be used with 2 heads: it is not installed"), False),
        (Choice("xformers", "forward and backward work at 2 heads"), False),
        (Choice("math", "as asked"), False),
        (Choice("sdpa", "xformers cannot be used with 2 heads: no kernel", unexpected=True), True),
        (None, False),
    ],
)
def test_attention_is_told_where_another_was_expected(
    choice: Choice | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaekit.stages.machine.set_attention", lambda *arguments: choice)
    said = StringIO()
    machine = Machine(torch.device("cpu"), Runtime(), Reporter(Console(file=said, width=200)))
    machine.prepare(nn.Linear(2, 2))
    assert said.getvalue() == (f"  {choice}\n" if told else "")
