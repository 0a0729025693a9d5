"""The TensorBoard tracker, read back by TensorBoard's own reader."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from event_helpers import read_events
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_sample_image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginEventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data
from torch import nn
from train.test_training import points

from gaekit.api import ComponentConfig, TrackedStage, Tracker
from gaekit.plugins import Plugin, Registry, build
from gaekit.recipe.schema import Runtime, Train
from gaekit.store.room import Room
from gaekit.train.progress import Reporter
from gaekit.train.track import Trackers
from gaekit.train.training import Host, Training
from gaekit.values import Loss
from gaekit_trackers import gaekit_components

STAGE = TrackedStage(
    "a_run",
    "diffusion",
    {
        "recipe": 1,
        "name": "a_run",
        "seed": 0,
        "teacher": None,
        "diffusion": {"denoiser": {"use": "dit"}, "train": {"steps": 9, "betas": [0.9, 0.95]}},
        "sample": {"count": 5},
        "evaluate": {"metrics": [{"use": "fid"}, {"use": "psnr"}]},
        "runtime": {"workers": 1},
    },
)


def tracker(folder: Path, purge_step: int = 0) -> Tracker:
    registry = Registry()
    for cls in gaekit_components():
        registry.add(cls, Plugin("trackers", "gaekit", "0", "gaekit_trackers"))
    config: ComponentConfig = registry.find("tracker", "tensorboard").Config(use="tensorboard")
    return build(Tracker, config, registry, folder=folder, purge_step=purge_step, stage=STAGE)


def tracker_of(folder: Path) -> Callable[[int], Tracker]:
    return lambda purge_step: tracker(folder, purge_step)


def log(folder: Path, steps: range, scale: float, purge_step: int = 0, image: torch.Tensor | None = None) -> None:
    made = tracker(folder, purge_step)
    for step in steps:
        made.log(step, {"loss/l1": step * scale}, {} if image is None else {"reconstructions": image * scale})
    made.close()


def test_scalars_come_back_with_their_names_steps_and_values(tmp_path: Path) -> None:
    log(tmp_path / "a" / "tensorboard", range(5), 0.5)
    events = read_events(tmp_path / "a" / "tensorboard")
    assert events.Tags()["scalars"] == ["loss/l1"]
    assert [(e.step, e.value) for e in events.Scalars("loss/l1")] == [(s, s * 0.5) for s in range(5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_comes_back_pixel_by_pixel(tmp_path: Path, dtype: torch.dtype) -> None:
    photo = torch.tensor(load_sample_image("flower.jpg")[100:148, 200:264]).permute(2, 0, 1)
    log(tmp_path, range(3, 4), 1.0, image=(photo / 255).to(dtype).requires_grad_())
    (event,) = read_events(tmp_path).Images("reconstructions")
    back = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert (event.step, event.width, event.height) == (3, 64, 48)
    assert np.abs(back.transpose(2, 0, 1).astype(int) - photo.numpy()).max() <= (1 if dtype is torch.float32 else 2)


def test_a_resumed_run_shows_no_step_twice(tmp_path: Path) -> None:
    photo = torch.tensor(load_sample_image("flower.jpg")[100:116, 200:216]).permute(2, 0, 1) / 255
    log(tmp_path, range(10), 1.0, image=photo)
    log(tmp_path, range(6, 12), 0.5, purge_step=6, image=photo)
    events = read_events(tmp_path)
    expected = [(s, s * 1.0) for s in range(6)] + [(s, s * 0.5) for s in range(6, 12)]
    assert [(e.step, e.value) for e in events.Scalars("loss/l1")] == expected
    assert [e.step for e in events.Images("reconstructions")] == list(range(12))


@pytest.mark.parametrize("stop", [1, 5, 7])
def test_a_training_that_goes_on_shows_every_step_that_it_logged_once(tmp_path: Path, stop: int) -> None:
    """Killed after step `stop`, where the checkpoint of step 5 is the last, if there is one."""

    def train(stop: int | None) -> None:
        board = tracker_of(tmp_path / "board")
        host = Host(
            "test", 7, Room(tmp_path / "room"), Runtime(log_every=1, save_every=5), torch.device("cpu"),
            Reporter(Console(quiet=True)), lambda step: Trackers([("tensorboard", lambda: board(step))]),
        )  # fmt: skip
        with Training(Train(steps=10, batch=8), {"net": nn.Linear(4, 1)}, host) as training:
            for step, batch in training.steps(points):
                training.update("net", {"size": Loss(training["net"](batch.x).square().mean())})
                if step.index == stop:
                    break

    train(stop)
    train(None)
    assert [event.step for event in read_events(tmp_path / "board").Scalars("loss/size")] == list(range(1, 11))


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    log(tmp_path, range(4), 1.0)
    log(tmp_path, range(2), 0.5)
    assert [(e.step, e.value) for e in read_events(tmp_path).Scalars("loss/l1")] == [(0, 0.0), (1, 0.5)]


def test_the_reader_behind_the_web_page_hides_the_same_steps(tmp_path: Path) -> None:
    log(tmp_path, range(10), 1.0)
    log(tmp_path, range(6, 8), 0.5, purge_step=6)
    events = read_events(tmp_path, PluginEventAccumulator, ("tensors",))
    assert [e.step for e in events.Tensors("loss/l1")] == list(range(8))


def test_what_was_logged_is_on_disk_after_close_and_close_may_come_twice(tmp_path: Path) -> None:
    made = tracker(tmp_path)
    made.log(1, {"a": 1.0}, {})
    made.close()
    size = sum(f.stat().st_size for f in tmp_path.iterdir())
    made.close()
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) == size
    assert [e.value for e in read_events(tmp_path).Scalars("a")] == [1.0]


def hyperparameters(folder: Path) -> dict[str, object]:
    """As TensorBoard's page of hyperparameters reads them."""
    events = read_events(folder, PluginEventAccumulator, ("tensors",))
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in found.items()}


def test_the_recipe_is_text_and_its_settings_up_to_the_stage_are_hyperparameters(tmp_path: Path) -> None:
    log(tmp_path, range(2), 1.0)
    events = read_events(tmp_path, PluginEventAccumulator, ("tensors",))
    (text,) = events.Tensors("recipe/text_summary")
    code = "".join(line[4:] for line in text.tensor_proto.string_val[0].decode().splitlines(keepends=True))
    assert yaml.safe_load(code) == STAGE.recipe
    assert hyperparameters(tmp_path) == {
        "Run": "a_run",
        "Stage": "diffusion",
        "seed": 0,
        "teacher": "none",
        "diffusion.denoiser.use": "dit",
        "diffusion.train.steps": 9,
        "diffusion.train.betas": "[0.9, 0.95]",
    }


def test_what_has_one_value_is_text_and_a_hyperparameter_and_no_curve(tmp_path: Path) -> None:
    made = tracker(tmp_path)
    made.results({"samples/fid": 2.5}, {"samples": torch.rand(3, 4, 4)})
    made.close()
    events = read_events(tmp_path, PluginEventAccumulator, ("tensors",))
    assert events.PluginTagToContent("images").keys() == {"samples"}
    with pytest.raises(KeyError, match="scalars"):
        events.PluginTagToContent("scalars")
    (text,) = events.Tensors("results/text_summary")
    assert "| samples/fid | 2.5 |" in text.tensor_proto.string_val[0].decode()
    assert hyperparameters(tmp_path)["samples/fid"] == 2.5


def test_custom_scalars_have_a_page_for_the_stage_with_losses_and_probes_first(tmp_path: Path) -> None:
    made = tracker(tmp_path)
    tags = ("train/lr/net", "train/lr/critic", "train/speed", "weighted/l1", "loss/l1", "loss/l.2")
    made.log(1, dict.fromkeys(tags, 1.0), {})
    made.log(2, {"probe/loss/raw": 1.0, "loss/l1": 1.0}, {})
    made.close()
    events = read_events(tmp_path, PluginEventAccumulator, ("tensors",))
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    page, speed = layout.category
    assert (page.title, speed.title) == ("diffusion", "speed of all stages")
    assert [chart.title for chart in speed.chart] == ["train/speed"]
    shown = {
        chart.title: [t for t in tags if any(re.search(tag, t) for tag in chart.multiline.tag)] for chart in page.chart
    }
    assert list(shown) == ["loss", "probe/loss", "weighted", "train/lr"]
    assert shown["loss"] == ["loss/l1", "loss/l.2"]
    assert shown["train/lr"] == ["train/lr/net", "train/lr/critic"]


def test_importing_the_plugin_imports_no_tensorboard_and_changes_no_warning_filter() -> None:
    code = (
        "import sys, warnings, gaekit.api\n"
        "before = list(warnings.filters)\n"
        "import gaekit_trackers\n"
        "assert 'tensorboard' not in sys.modules and 'torch.utils.tensorboard' not in sys.modules\n"
        "assert list(warnings.filters) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ), timeout=60)
