"""`--redo` and `--fresh`: a stage begins again whatever became of it, and no other run loses anything by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_helpers import tiny_recipe
from rich.console import Console

from gaekit.cli import main
from gaekit.errors import RunFailed
from gaekit.pipeline.plan import make_plan
from gaekit.pipeline.rooms import stored_rooms
from gaekit.pipeline.view import View
from gaekit.plugins import load_plugins
from gaekit.recipe import load_recipe
from gaekit.runs.opened import open_run
from gaekit.train.progress import Reporter
from gaekit.train.training import Training

TINY = tiny_recipe("""
diffusion: {train: {steps: 6}}
sample: {sampler: {use: euler, steps: 1}, count: 4, batch: 4}
runtime: {save_every: 2, log_every: 1, threads: 1}
""")
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return lambda name, *options: main(["run", "tiny.yaml", "--name", name, *options])


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of the diffusion stage as they are trained; one may end with an error, put in their place."""
    seen: list[int] = []
    update = Training.update

    def watched(self: Training, name: str, losses: object) -> None:
        if self.host.stage == "diffusion":
            seen.append(self.at)
        update(self, name, losses)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "update", watched)
    return seen


def ending_at(monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException]) -> None:
    """Have the diffusion stage end with an error at a step."""
    update = Training.update

    def ending(self: Training, name: str, losses: object) -> None:
        if self.host.stage == "diffusion" and self.at == step:
            self.checkpoints.close()
            raise error("in the middle")
        update(self, name, losses)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "update", ending)


def room(name: str, stage: str = "diffusion") -> str:
    return str(View(Path("runs", name)).record["stages"][stage]["room"])


def statuses(name: str) -> dict[str, str]:
    return {stage: entry["status"] for stage, entry in View(Path("runs", name)).record["stages"].items()}


def bytes_under(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


LONG = ("--set", "diffusion.train.steps=10")


def test_another_run_keeps_its_result_its_checkpoints_and_its_room(run: Run, steps: list[int]) -> None:
    assert run("short") == run("long", *LONG) == 0
    shared = room("long")
    before = bytes_under(Path("runs", shared))
    samples = open_run(Path("runs/long"), load_plugins(), Reporter(Console(quiet=True))).sample([1, 2], 2).tensors
    steps.clear()
    assert run("short", "--redo", "diffusion") == 0
    assert steps == list(range(6))
    assert bytes_under(Path("runs", shared)) == before
    assert room("short") == f"{shared}-2"
    assert {stage for stage, status in statuses("short").items() if status == "done"} == {"diffusion", "sample"}
    reopened = open_run(Path("runs/long"), load_plugins(), Reporter(Console(quiet=True))).sample([1, 2], 2).tensors
    assert (reopened == samples).all()
    assert run("long", *LONG) == 0
    assert set(statuses("long").values()) == {"cached"}
    assert run("short") == 0
    assert set(statuses("short").values()) == {"cached"}
    assert room("short") == f"{shared}-2"


def test_what_was_there_is_listed_and_removed_once_nothing_refers_to_it(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("one") == run("two") == 0
    first, sample = room("one"), room("one", "sample")
    assert run("one", "--redo", "diffusion") == 0
    assert {s.name: s.used_by for s in stored_rooms(Path("runs")) if s.stage in ("diffusion", "sample")} == {
        first: ("two",), f"{first}-2": ("one",), sample: ("two",), room("one", "sample"): ("one",),
    }  # fmt: skip
    assert room("one", "sample") != sample
    main(["store", "gc"])
    assert "0 rooms removed" in capsys.readouterr().out
    shutil.rmtree("runs/two")
    main(["store", "gc"])
    assert "2 rooms removed" in capsys.readouterr().out
    assert not Path("runs", first).exists()
    assert run("one") == 0
    assert set(statuses("one").values()) == {"cached"}


def test_a_new_run_takes_the_newest_result_and_what_is_made_from_that(run: Run) -> None:
    assert run("one") == run("one", "--redo", "diffusion") == run("new") == 0
    assert (room("new"), room("new", "sample")) == (room("one"), room("one", "sample"))
    assert set(statuses("new").values()) == {"cached"}


@pytest.mark.parametrize("option", ["--redo", "--fresh"])
def test_a_diverged_training_begins_at_step_0(
    run: Run, steps: list[int], monkeypatch: pytest.MonkeyPatch, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        ending_at(patched, 5, RunFailed)
        assert run("one") == 3
        assert statuses("one")["diffusion"] == "failed"
        steps.clear()
        assert run("one", option, "diffusion") == 3
        assert run("one", option, "diffusion") == 3
        assert steps == [*range(5), *range(5)]
    steps.clear()
    assert run("one", option, "diffusion") == 0
    assert steps == list(range(6))
    assert "diffusion: running" in capsys.readouterr().err
    rooms = sorted(path.name for path in Path("runs", room("one")).parent.iterdir())
    assert len(rooms) == (1 if option == "--fresh" else 4)


def test_a_redo_that_was_stopped_goes_on_by_the_same_command_and_by_the_plain_one(
    run: Run, steps: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("one") == 0
    for option in ((), ("--redo", "diffusion")):
        earlier = room("one")
        with monkeypatch.context() as patched:
            ending_at(patched, 5, KeyboardInterrupt)
            assert run("one", "--redo", "diffusion") == 130
        main(["store", "gc"])  # the earlier result is needed until the new one is there
        assert Path("runs", earlier, "step-6/DONE").exists()
        steps.clear()
        capsys.readouterr()
        assert run("one", *option) == 0
        assert steps == [4, 5]
        assert "diffusion: resuming" in capsys.readouterr().err
    main(["store", "gc"])
    assert {s.name for s in stored_rooms(Path("runs")) if s.stage == "diffusion"} == {room("one")}


def test_stages_after_a_redo_that_ended_between_two_are_of_the_new_result(run: Run) -> None:
    assert run("one") == 0
    assert run("one", "--redo", "diffusion", "--until", "diffusion") == 0
    recipe = load_recipe("tiny.yaml", load_plugins(), name="one")
    plan = make_plan(recipe, load_plugins(), Path("runs/store"))
    assert {stage.name: stage.status for stage in plan.stages if stage.status != "cached"} == {"sample": "run"}
    assert run("one") == 0
    assert statuses("one")["sample"] == "done"


def test_fresh_discards_checkpoints_and_what_was_not_finished_and_keeps_results(
    run: Run, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("one") == 0
    first = Path("runs", room("one"))
    with monkeypatch.context() as patched:
        ending_at(patched, 9, KeyboardInterrupt)
        assert run("one", *LONG) == 130
    assert run("one", "--set", "seed=5", "--until", "autoencoder") == 0
    shutil.rmtree("runs/one/history")
    assert run("one", *LONG, "--until", "latents") == 0
    shutil.rmtree("runs/one/history")
    steps.clear()
    assert run("one", *LONG, "--fresh", "diffusion") == 0
    assert steps == list(range(10))
    assert not (first / "checkpoints").exists()
    assert (first / "step-6/denoiser.safetensors").exists()
    assert not (first / "step-10").exists()


def test_fresh_discards_nothing_that_another_run_or_the_history_needs(
    run: Run, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("one") == run("other") == 0
    shared = room("other")
    before = bytes_under(Path("runs", shared))
    capsys.readouterr()
    assert run("one", "--fresh", "diffusion") == 0
    assert f"nothing is discarded: runs/{shared} is needed by other" in capsys.readouterr().err
    assert bytes_under(Path("runs", shared)) == before
    assert run("other", "--set", "sample.count=2") == 0  # the earlier view moves to the history
    shutil.rmtree("runs/one")
    assert run("other", "--set", "sample.count=2", "--fresh", "diffusion") == 0
    assert "is needed by the history of other" in capsys.readouterr().err
    assert bytes_under(Path("runs", shared)) == before


def test_what_cannot_be_begun_again_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("one") == 0
    assert run("two", "--set", "autoencoder={from: runs/one}", "--redo", "autoencoder") == 2
    assert "--redo autoencoder: this recipe takes it from" in capsys.readouterr().err
    assert run("one", "--redo", "sample", "--fresh", "diffusion") == 2
    assert "give one of the two" in capsys.readouterr().err
    assert run("one", "--fresh", "sampel") == 2
    assert "--fresh sampel: this recipe has no such stage" in capsys.readouterr().err
    assert json.loads(Path("runs/one/run.json").read_text())["again"] is None
