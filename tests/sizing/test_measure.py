"""`gaekit plan --measure`: the stages' own steps, leaving nothing behind."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gaekit.pipeline.run import run_recipe
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.sizing import measure
from gaekit.sizing.measure import FirstRank, Rehearsal, _rehearsed, measure_stages
from gaekit.stages import Stage, autoencoder, diffusion, semantic
from gaekit.train.progress import Reporter
from gaekit.train.training import Step

REGISTRY = load_plugins()
CPU = torch.device("cpu")


def rehearsal(folder: Path, *changes: str, nproc: int = 1) -> Rehearsal:
    recipe = _rehearsed(load_recipe("smoke", REGISTRY, overrides=changes), REGISTRY, 1438)
    return Rehearsal(recipe, REGISTRY, CPU, folder, 10, FirstRank(of=nproc))


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(measure, "MOST_STEPS", 2)


@pytest.mark.parametrize("changes", [(), ("latents.online=true",), ("latents.store=moments", "runtime.micro_batch=8")])
def test_a_denoisers_steps_are_timed(tmp_path: Path, changes: tuple[str, ...]) -> None:
    found = rehearsal(tmp_path, *changes).measure(diffusion.STAGE)
    assert found.note == ""
    assert found.seconds is not None
    assert 0 < found.seconds < 30
    assert found.peak is not None


def test_the_clock_counts_the_stages_own_steps_but_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage whose first step takes 0.3 s and all others 0.05 s."""
    entered = []

    def slow(objective: Any) -> Any:
        def losses_of(*inputs: Any) -> Any:
            entered.append(len(inputs[2]))
            time.sleep(0.3 if len(entered) == 1 else 0.05)
            return objective(*inputs)

        return losses_of

    before = diffusion.objective
    monkeypatch.setattr(diffusion, "objective", lambda *inputs: slow(before(*inputs)))
    found = rehearsal(tmp_path).measure(diffusion.STAGE)
    assert entered == [32, 32, 32]  # one step to warm up and two counted
    assert found.seconds is not None
    assert 0.05 < found.seconds < 0.25


def test_one_process_of_several_takes_its_rows_of_the_recipes_own_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step costs depends on the whole batch too, of which randomness is drawn."""
    drawn: list[tuple[int, int, int]] = []
    before = Step.draws

    def draws(step: Step, name: str) -> Any:
        drawn.append((step.first, step.last, step.batch))
        return before(step, name)

    monkeypatch.setattr(Step, "draws", draws)
    found = rehearsal(tmp_path, "runtime.micro_batch=4", nproc=4).measure(diffusion.STAGE)
    assert found.seconds is not None
    assert set(drawn) == {(0, 4, 32), (4, 8, 32)}


@pytest.mark.parametrize("stage", [semantic.STAGE, autoencoder.STAGE, diffusion.STAGE])
def test_a_measured_training_leaves_neither_checkpoint_nor_artifact(tmp_path: Path, stage: Stage) -> None:
    found = rehearsal(tmp_path).measure(stage)
    assert found.seconds is not None
    rooms = list(tmp_path.glob(f"{stage.name}-*"))
    assert rooms
    assert not [file for room in rooms for file in room.rglob("*.safetensors") if "shards" not in file.parts]


def test_a_micro_batch_that_fits_is_found_where_memory_does_not_suffice(tmp_path: Path) -> None:
    def small_card(job: Any) -> Any:
        if job.recipe.runtime.micro_batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return diffusion.train(job)

    found = rehearsal(tmp_path, "diffusion.train.batch=12").measure(replace(diffusion.STAGE, train=small_card))
    assert found.seconds is not None
    assert found.note == "out of memory at 12 images a pass: --set runtime.micro_batch=6"

    def no_card(job: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    found = rehearsal(tmp_path, "diffusion.train.batch=2").measure(replace(diffusion.STAGE, train=no_card))
    assert "even at one image a pass" in found.note


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    changes = ("teacher={use: dinov2, size: small, weights: absent.safetensors}",)
    found = rehearsal(tmp_path, *changes).measure(semantic.STAGE)
    assert found.seconds is None
    assert "absent.safetensors" in found.note
    assert "nowhere" in rehearsal(tmp_path, "latents={from: nowhere}").measure(diffusion.STAGE).note


def test_memory_of_a_hundred_megabytes_is_seen() -> None:
    """In a process of its own: one that has freed as much before grows by nothing."""
    program = (
        "import torch\nfrom gaekit.sizing import measure\nwith measure.peak_memory(torch.device('cpu')) as peak:\n"
        "    torch.ones(25_000_000).sum()\nprint(peak.bytes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert 50e6 < int(done.stdout) < 300e6


@pytest.mark.slow
def test_measured_steps_take_as_long_as_those_of_a_run(tmp_path: Path) -> None:
    changes = ["semantic.train.steps=30", "autoencoder.train.steps=30", "diffusion.train.steps=60"]
    changes += ["runtime.save_every=1000", "autoencoder.adversary.start=0", "autoencoder.adversary.warmup=0"]
    recipe = load_recipe("smoke", REGISTRY, overrides=changes)
    with contextlib.chdir(tmp_path):
        measured = {m.stage: m.seconds for m in measure_stages(recipe, REGISTRY, classes=10, images=1438)}
        assert list(tmp_path.iterdir()) == []
        view = run_recipe(recipe, REGISTRY, until="diffusion", reporter=Reporter(measure._quiet().console))
        stages = view.record["stages"]
    for stage, seconds in measured.items():
        record = stages[stage]["record"]
        assert seconds is not None
        assert 1 / 3 < seconds * record["steps"] / record["seconds"] < 3
