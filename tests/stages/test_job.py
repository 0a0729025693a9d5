"""What `runtime` asks of every network is done without another result, and what cannot be done is said."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from gaekit.api import Tracker
from gaekit.nn import regions
from gaekit.parallel import World
from gaekit.pipeline.run import run_recipe
from gaekit.plugins import Plugin, Registry, load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.stages import machine as machine_module
from gaekit.stages.data import Data
from gaekit.stages.job import Job
from gaekit.stages.machine import Machine
from gaekit.store.room import Room
from gaekit.train.progress import Reporter

VIT = {"use": "vit", "depth": 2, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of scikit-learn's digits as files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("images")
    for index, digit in enumerate(load_digits().images[:20]):
        Image.fromarray((digit * 15).astype("uint8")).resize((16, 16)).save(folder / f"{index}.png")
    return folder


def recipe(images: Path, **runtime: Any) -> dict[str, Any]:
    return {
        "recipe": 1,
        "name": "tiny",
        "image": {"size": 16, "stride": 4},
        "latent_dim": 4,
        "dataset": {"use": "image_folder", "root": str(images)},
        "teacher": {"use": "efficientnet_lite0"},
        "aligner": {"use": "post", "loss": "vf", "adaptive": True, "weight": 0.1},
        "autoencoder": {
            "encoder": VIT,
            "decoder": VIT,
            "regularizer": {"use": "rms_norm"},
            "noise": {"use": "dynamic"},
            "weights": {"log_variance": 0.0},
            "adversary": {"channels": 4, "layers": 1, "start": 1, "adaptive": True},
            "train": {"steps": 3, "batch": 8, "lr": 1e-3},
        },
        "runtime": {"trackers": [], "threads": 1, "device": "cpu", **runtime},
    }


def trained(folder: Path, images: Path, registry: Registry, **runtime: Any) -> tuple[dict[str, Tensor], str]:
    """The tensors of the autoencoder's artifact, and what was said."""
    said = StringIO()
    given = load_recipe_data(recipe(images, **runtime), registry)
    view = run_recipe(given, registry, out=folder, reporter=Reporter(Console(file=said, width=200)))
    return load_file(view.artifact("autoencoder")), said.getvalue()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, images: Path, registry: Registry) -> dict[str, Tensor]:
    found, said = trained(tmp_path_factory.mktemp("plain"), images, registry)
    assert "runtime." not in said
    return found


def test_checkpointing_changes_no_bit_of_a_run_and_names_what_it_cannot_recompute(
    tmp_path: Path, images: Path, registry: Registry, plain: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    recomputed: list[nn.Module] = []

    def spy(block: nn.Module, *inputs: Any, **settings: Any) -> Any:
        recomputed.append(block)
        return torch.utils.checkpoint.checkpoint(block, *inputs, **settings)

    monkeypatch.setattr(regions, "checkpoint", spy)
    found, said = trained(tmp_path, images, registry, checkpointing=True)
    assert {type(block).__name__ for block in recomputed} == {"TransformerBlock"}
    assert found.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[key]) for key, tensor in found.items())
    assert [line for line in said.splitlines() if "runtime." in line] == [
        f"  runtime.checkpointing: {name} has no blocks to recompute, it keeps its activations"
        for name in ("PostAligner", "PatchGAN")
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_train_to_the_same_weights(
    tmp_path: Path, images: Path, registry: Registry, plain: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adaptive weights included, which go through compiled blocks more than once."""
    compiled: list[str] = []

    def without_inductor(module: nn.Module) -> None:
        count = regions.compile_regions(module, backend="aot_eager")
        compiled.append(f"{type(module).__name__} {count}")

    monkeypatch.setattr(machine_module, "compile_regions", without_inductor)
    found, _ = trained(tmp_path, images, registry, compile=True)
    torch._dynamo.reset()
    teacher = "EfficientNetLite0 0"  # of each of the two stages
    assert compiled == [teacher, "PostAligner 0", teacher, "ViTEncoder 2", "ViTDecoder 2", "PatchGAN 0"]
    assert found.keys() == plain.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, plain[key], rtol=1e-3, atol=1e-4, msg=key)


class SecondOfTwo(World):
    """Hears from a first rank that skipped an image of its own."""

    def all_gather(self, value: Any) -> list[Any]:
        return [{"a.png": "is empty"}, value]


def test_a_record_names_the_images_that_any_rank_skipped(registry: Registry, images: Path, tmp_path: Path) -> None:
    loaded = load_recipe_data(recipe(images), registry)
    reporter, world = Reporter(Console(quiet=True)), SecondOfTwo(rank=1, size=2)
    machine, data = Machine(torch.device("cpu"), loaded.runtime, reporter, world), Data(loaded, registry)
    job = Job("autoencoder", loaded, registry, machine, data, Room(tmp_path), {}, tmp_path)
    split = job.images("train")
    split.skipped["b.png"] = "is no image"
    assert job.skipped(split) == {"a.png": "is empty", "b.png": "is no image"}


class Noted(Tracker):
    """Writes one file."""

    name = "noted"

    def log(self, step: int, scalars: Any, images: Any) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "log.txt").write_text(str(scalars))

    def close(self) -> None:
        pass


def test_each_tracker_has_a_folder_of_its_own_also_where_two_are_alike(images: Path, tmp_path: Path) -> None:
    registry = load_plugins()
    registry.add(Noted, Plugin("noted", "noted", "1", __name__))
    uses = ("tensorboard", "noted", "tensorboard", "noted")
    loaded = load_recipe_data(recipe(images, trackers=[{"use": use} for use in uses]), registry)
    machine = Machine(torch.device("cpu"), loaded.runtime, Reporter(Console(quiet=True)), World())
    Job("autoencoder", loaded, registry, machine, Data(loaded, registry), Room(tmp_path), {}, tmp_path).show(
        {"a": 1}, {}
    )
    folders = {path.name: len(list(path.iterdir())) for path in (tmp_path / "trackers").iterdir()}
    assert folders == {"tensorboard": 1, "tensorboard_2": 1, "noted": 1, "noted_2": 1}
