"""Every attempt at a stage is written down while it lasts, however it ends; what cannot be written ends nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from recipe_helpers import tiny_recipe
from rich.console import Console
from store.test_attempts import attempt
from torch import nn

from gaekit.errors import Preempted, RunFailed
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe
from gaekit.stages.attempt import recorded
from gaekit.stages.data import Data
from gaekit.stages.job import Job
from gaekit.stages.machine import Machine
from gaekit.store.attempts import read_attempts, write_attempts
from gaekit.store.room import Room
from gaekit.train.progress import Reporter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Registry]:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(tiny_recipe())
    registry = load_plugins()
    return load_recipe(path, registry), registry


def job(made: tuple[Recipe, Registry], folder: Path, stage: str, told: io.StringIO | None = None) -> Job:
    recipe, registry = made
    machine = Machine(torch.device("cpu"), recipe.runtime, Reporter(Console(file=told or io.StringIO(), width=1000)))
    room = Room(folder / "store" / stage / "abc")
    room.path.mkdir(parents=True, exist_ok=True)
    return Job(stage, recipe, registry, machine, Data(recipe, registry), room, {}, folder / "store")


def test_a_training_is_known_by_its_steps_its_images_and_what_its_networks_did(
    made: tuple[Recipe, Registry], tmp_path: Path
) -> None:
    work, network = job(made, tmp_path, "diffusion"), nn.Linear(10, 10)
    work.machine.count_flops()
    work.machine.watch(network, "before")
    network(torch.rand(1, 10))
    with recorded(work, 40), work.reporter.bar("diffusion", 5) as bar, torch.no_grad():
        (running,) = read_attempts(work.room.attempts)
        for step in (31, 32, 33):
            network(torch.rand(8, 10))
            work.on_step(step, 8)
            bar.advance(per=8)
    (done,) = read_attempts(work.room.attempts)
    assert (running.outcome, running.steps, running.flop) == ("running", 0, None)
    assert (done.outcome, done.first_step, done.last_step, done.steps, done.images) == ("done", 30, 33, 3, 24)
    assert done.flop_by_network == {"before": 3 * 2 * 8 * 10 * 10}
    assert (done.length, done.processes, done.cuda, done.precision, done.epoch) == (40, 1, False, "float32", 1438)
    assert done.ready_seconds is not None
    assert 0 <= done.ready_seconds <= done.seconds


def test_images_of_other_stages_are_those_that_their_bars_count(made: tuple[Recipe, Registry], tmp_path: Path) -> None:
    work = job(made, tmp_path, "latents")
    with recorded(work), work.reporter.bar("latents", 10) as bar:
        bar.advance(3)
        bar.advance(per=4)
        with work.reporter.bar("files", 10, unit="files") as other:
            other.advance(5)
    with work.reporter.bar("latents", 10) as bar:
        bar.advance(100)
    (done,) = read_attempts(work.room.attempts)
    assert (done.images, done.first_step, done.epoch) == (7, None, None)


@pytest.mark.parametrize(
    ("error", "outcome", "told"),
    [
        (RunFailed("the loss is not finite"), "failed", "the loss is not finite"),
        (ValueError("odd\nand more"), "failed", "ValueError: odd"),
        (Preempted("stopped"), "stopped", ""), (KeyboardInterrupt(), "stopped", ""),
    ],
)  # fmt: skip
def test_an_attempt_that_ends_otherwise_is_written_with_its_end(
    made: tuple[Recipe, Registry], tmp_path: Path, error: BaseException, outcome: str, told: str
) -> None:
    for count in (1, 2):
        work = job(made, tmp_path, "diffusion")
        with pytest.raises(type(error)), recorded(work):
            raise error
        found = read_attempts(work.room.attempts)
        assert [(a.outcome, a.error) for a in found] == [(outcome, told)] * count


def test_what_was_killed_before_is_closed(made: tuple[Recipe, Registry], tmp_path: Path) -> None:
    work = job(made, tmp_path, "diffusion")
    write_attempts(work.room.attempts, [attempt()])
    with recorded(work):
        assert [a.outcome for a in read_attempts(work.room.attempts)] == ["killed", "running"]


@pytest.mark.parametrize("damage", ["a folder", "another file"])
def test_what_cannot_be_written_is_told_and_ends_nothing(
    made: tuple[Recipe, Registry], tmp_path: Path, damage: str
) -> None:
    told = io.StringIO()
    work = job(made, tmp_path, "latents", told)
    if damage == "a folder":
        work.room.attempts.mkdir()
    else:
        work.room.attempts.write_text("something of somebody's\n")
    with recorded(work):
        pass
    assert told.getvalue().count("is not written down, the work goes on") == 1
    assert damage == "a folder" or work.room.attempts.read_text() == "something of somebody's\n"
