"""`tensorboard --logdir runs` finds each curve once, under a run's name, whatever runs share a room."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from gaekit.api import TrackedStage, Tracker
from gaekit.pipeline.shown_curves import show_curves
from gaekit.pipeline.view import View
from gaekit.plugins import Registry, build, load_plugins


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def curves(logdir: Path) -> list[str]:
    """The runs that TensorBoard shows, by their folders; each with its one curve."""
    found: dict[str, Any] = EventMultiplexer().AddRunsFromDirectory(str(logdir)).Reload().Runs()
    assert all("loss/l1" in tags["tensors"] for tags in found.values())
    return sorted(found)


def room(runs: Path, name: str, registry: Registry, use: str = "tensorboard") -> Path:
    """A room of the autoencoder whose tracker has logged; -> its folder of trackers."""
    trackers = runs / "store/autoencoder" / name / "trackers"
    config = registry.find("tracker", "tensorboard").Config(use="tensorboard")
    stage = TrackedStage(name, "autoencoder", {})
    made: Tracker = build(Tracker, config, registry, folder=trackers / use, purge_step=0, stage=stage)
    made.log(1, {"loss/l1": 1.0}, {})
    made.close()
    return trackers


def opened(runs: Path, run: str, identity: str) -> View:
    view = View(runs / run)
    view.path.mkdir(exist_ok=True)
    stage = {"status": "done", "identity": identity, "artifact": "a", "room": f"store/autoencoder/{identity}",
             "subfolder": ""}  # fmt: skip
    view.open({"name": run, "stages": {"autoencoder": stage}}, "recipe: 1")
    return view


def test_a_room_that_runs_share_shows_under_the_first(tmp_path: Path, registry: Registry) -> None:
    trackers = room(tmp_path, "aaa", registry)
    first, second = opened(tmp_path, "first", "aaa"), opened(tmp_path, "second", "aaa")
    for view in (first, second, first):
        show_curves(view, "autoencoder", trackers)
    assert curves(tmp_path) == ["first/tb/autoencoder"]
    assert curves(first.path) == ["tb/autoencoder"]


def test_an_earlier_curve_goes_to_history_and_one_that_stays_the_same_with_the_run(
    tmp_path: Path, registry: Registry
) -> None:
    old, new = room(tmp_path, "aaa", registry), room(tmp_path, "bbb", registry)
    show_curves(opened(tmp_path, "run", "aaa"), "autoencoder", old)
    show_curves(opened(tmp_path, "run", "bbb"), "autoencoder", new)
    assert curves(tmp_path) == ["run/history/0001/tb/autoencoder", "run/tb/autoencoder"]
    show_curves(opened(tmp_path, "run", "aaa"), "autoencoder", old)
    assert curves(tmp_path) == ["run/history/0002/tb/autoencoder", "run/tb/autoencoder"]


def test_a_resumed_stage_shows_all_its_files_as_one_curve_and_a_second_tracker_apart(
    tmp_path: Path, registry: Registry
) -> None:
    room(tmp_path, "aaa", registry)
    trackers = room(tmp_path, "aaa", registry)
    room(tmp_path, "aaa", registry, "tensorboard_2")
    show_curves(opened(tmp_path, "run", "aaa"), "autoencoder", trackers)
    assert curves(tmp_path) == ["run/tb/autoencoder", "run/tb/autoencoder-tensorboard_2"]
    shown = Counter(file.parent.name for file in tmp_path.glob("run/tb/*/*"))
    assert shown == {"autoencoder": 2, "autoencoder-tensorboard_2": 1}


def test_what_another_process_left_broken_is_linked_anew(tmp_path: Path, registry: Registry) -> None:
    trackers = room(tmp_path, "aaa", registry)
    view = opened(tmp_path, "run", "aaa")
    (view.path / "tb/autoencoder").mkdir(parents=True)
    (view.path / "tb/autoencoder/events.out.tfevents.0001").symlink_to("nowhere")
    show_curves(view, "autoencoder", trackers)
    assert curves(tmp_path) == ["run/tb/autoencoder"]
