"""`gaekit tune-guidance`: the search, its study through a kill, and the numbers made anew."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_helpers import gaekit
from rich.console import Console

from gaekit.errors import ArtifactError, GaekitError, RunFailed
from gaekit.recipe import dump, load_section
from gaekit.recipe.schema import Sample
from gaekit.runs.opened import OpenRun, open_run
from gaekit.runs.tune import Task, tune_guidance
from gaekit.runs.tune.judge import Judge, Outcome, read_wanted
from gaekit.runs.tune.page import make_page
from gaekit.runs.tune.search import Found, read_anew
from gaekit.runs.tune.space import Choice, Space
from gaekit.runs.tune.study import JOURNAL, Goal, Study, Trial, best_of, spread
from gaekit.runs.tune.text import lines_of
from gaekit.store.room import Room, RoomInUse
from gaekit.train.progress import Reporter

pytest.importorskip("optuna", reason="needs the extra 'tune'")
OWN = Choice(1.5, 0.25, 1.0, 1.0)
ALL = ("scale", "interval", "shift")
BEST = Choice(2.2, 0.3, 0.8, 0.6)


def space() -> Space:
    return Space(OWN, ALL, 5.0)


def bowl(choice: Choice) -> float:
    """A known objective: 0 at BEST, quadratic around it."""
    shift = 1.0 if choice.shift is None else choice.shift
    return (
        (choice.scale - 2.2) ** 2 + 4 * (choice.start - 0.3) ** 2 + 4 * (choice.end - 0.8) ** 2
        + (math.log(shift) - math.log(0.6)) ** 2
    )  # fmt: skip


class Bowl:
    """Stands in for the judge. `seen` are the settings and seeds of every call; after `most` of them it is stopped."""

    def __init__(self, goals: Sequence[Goal] = ("lower",), most: int = 10**9):
        self._goals, self.most = list(goals), most
        self.seen: list[tuple[Choice, int, int]] = []

    def goals(self, labels: Sequence[str]) -> list[Goal]:
        return self._goals

    def __call__(self, choice: Choice, seed: int, images: int, *, intervals: bool = False) -> Outcome:
        if len(self.seen) >= self.most:
            raise KeyboardInterrupt
        self.seen.append((choice, seed, images))
        entry = {"value": bowl(choice) + seed / 1000, "interval": [0.0, 9.0], "protocol": {}}
        entries = {"class_accuracy": entry}
        if len(self._goals) > 1:
            entries["recall"] = {"value": choice.scale, "protocol": {}}
        return Outcome(entries, images, 4.0, 0.5)


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> OpenRun:
    """A run of one's own, whose rooms are the shared run's."""
    (tmp_path / "store").symlink_to(tiny_run.parent / "store")
    shutil.copytree(tiny_run, tmp_path / "tiny", symlinks=True, ignore=shutil.ignore_patterns("tuning"))
    return open_run(tmp_path / "tiny", reporter=Reporter(Console(quiet=True)))


def tuned(run: OpenRun, judge: Bowl, budget: int, also: str | None = None) -> Found:
    return tune_guidance(run, Task("{use: class_accuracy}", also, budget=budget), judge)


def study(folder: Path, goals: Sequence[Goal] = ("lower",)) -> Study:
    folder.mkdir(exist_ok=True)
    return Study(folder, space(), goals, seed=3)


def search(found: Study, until: int) -> list[Choice]:
    while len(found) < until:
        params = found.next()
        found.add(params, [bowl(space().choice(params))], {"seconds": 1.0})
    return [trial.choice for trial in found.trials]


def test_a_known_optimum_is_found(tmp_path: Path) -> None:
    found = study(tmp_path)
    search(found, 50)
    best = best_of(found.trials, ["lower"])[0]
    assert bowl(best.choice) < 0.1 < bowl(OWN)
    last = np.mean([bowl(trial.choice) for trial in found.trials[-20:]])
    first = np.mean([bowl(trial.choice) for trial in found.trials[2:12]])
    assert last < first / 3  # it learned


def test_a_study_that_was_stopped_anywhere_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    whole = search(study(tmp_path / "whole"), 16)
    assert whole[:2] == [OWN, Choice(1.0, 0.25, 1.0, 1.0)]  # the recipe's own, and no guidance
    assert len(set(map(str, whole))) == 16
    search(study(tmp_path / "parts"), 5)
    study(tmp_path / "parts").next()  # asked for, and killed while it was evaluated
    journal = tmp_path / "parts" / JOURNAL
    torn = journal.read_bytes()
    journal.write_bytes(torn + torn.splitlines(keepends=True)[-1][:40])  # killed while it was written down
    (tmp_path / "parts" / f"{JOURNAL}.lock").symlink_to(journal)
    search(study(tmp_path / "parts"), 12)
    assert search(study(tmp_path / "parts"), 16) == whole


def test_a_journal_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("one line\nand half a second")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / JOURNAL).symlink_to(tmp_path / "precious")
    with pytest.raises(ArtifactError, match=r"study\.log: is a link"):
        study(tmp_path / "study")
    assert (tmp_path / "precious").read_text() == "one line\nand half a second"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "no JSON\n" + text,
        lambda text: '{"op_code": 99, "worker_id": "x"}\n' + text,
        lambda text: "[" * 5000 + "\n" + text,
        lambda text: text.replace('"scale"', '"scales"'),
        lambda text: re.sub(r'"value":[^,]*', '"value":NaN', text),
        lambda text: re.sub(r'"value":[^,]*', '"value":null', text),
    ],
)
def test_a_journal_of_something_else_is_named(tmp_path: Path, damage: Callable[[str], str]) -> None:
    search(study(tmp_path), 2)
    before = (tmp_path / JOURNAL).read_text()
    assert damage(before) != before
    (tmp_path / JOURNAL).write_text(damage(before))
    with pytest.raises(ArtifactError, match=r"study\.log: is no study of this search .*remove it"):
        study(tmp_path)


@pytest.mark.parametrize("kept", ["[]", '{"a": 3}', '{"a": {"numbers": {"fid": {"value": "x"}}}}',
                                  '{"a": {"numbers": {}, "cost": {"images": 1e999}}}'])  # fmt: skip
def test_numbers_made_anew_that_are_none_are_named(tmp_path: Path, kept: str) -> None:
    (tmp_path / "anew.json").write_text(kept)
    with pytest.raises(ArtifactError, match=r"anew\.json: (is no record|damaged)"):
        read_anew(tmp_path / "anew.json")


def test_parameters_and_settings_are_one_another(tmp_path: Path) -> None:
    assert [space().choice(params) for params in space().beginning] == [OWN, Choice(1.0, 0.25, 1.0, 1.0)]
    generator = np.random.default_rng(0)
    for _ in range(200):
        params = {name: float(generator.uniform(*ends)) for name, ends in space().ranges.items()}
        choice = space().choice(params)
        assert 0 <= choice.start < choice.end <= 1
        assert 1 <= choice.scale <= 5
        assert choice.options[1] == f"sample.guidance.scale={choice.scale:g}"
        assert float(choice.options[1].partition("=")[2]) == choice.scale
    assert Space(Choice(7.0, 0.95, 0.96, 9.0), ALL, 5.0).ranges == {
        "scale": (1.0, 7.0), "start": (0.0, 0.95), "share": (0.1, 1.0), "shift": (0.2, 9.0),
    }  # fmt: skip
    assert set(Space(OWN, ("shift",), 5.0).ranges) == {"shift"}


def test_what_is_not_tuned_stays_to_the_last_digit_as_in_the_recipe() -> None:
    own = Choice(1.23456, 0.12345, 0.98765, 0.1546875)
    assert Space(own, ALL, 5.0).choice(Space(own, ALL, 5.0).beginning[0]) == own
    assert Space(own, ("scale",), 5.0).choice({"scale": 2.00049}) == Choice(2.0, 0.12345, 0.98765, 0.1546875)
    assert Space(own, ("shift",), 5.0).choice({"shift": 0.70049}) == Choice(1.23456, 0.12345, 0.98765, 0.7)
    assert own.options[-1] == "sample.sampler.shift=0.1546875"


def test_the_front_is_of_trials_that_none_beats_by_both() -> None:
    values = [(3.0, 0.5), (2.0, 0.4), (2.0, 0.6), (1.0, 0.1), (4.0, 0.9), (5.0, 0.9), (1.0, 0.1), (2.5, 0.55)]
    trials = [Trial(number, OWN, pair, {}) for number, pair in enumerate(values)]
    assert [t.number for t in best_of(trials, ["lower", "higher"])] == [3, 2, 4]
    assert [t.number for t in best_of(trials, ["higher", "lower"])] == [5, 0, 1, 3]
    assert [t.number for t in best_of([Trial(0, OWN, (1.0,), {}), Trial(1, OWN, (1.0,), {})], ["higher"])] == [0]
    assert [t.number for t in spread(trials, 3)] == [0, 4, 7]


def test_numbers_are_made_anew_with_a_seed_that_nothing_was_tuned_on(run: OpenRun) -> None:
    judge = Bowl()
    found = tuned(run, judge, 20)
    result = json.loads((found.folder / "result.json").read_text())
    assert result == found.result
    seeds = [seed for _, seed, _ in judge.seen]
    assert seeds == [1] * 20 + [2, 2]  # the recipe's is 0
    assert [images for *_, images in judge.seen] == [12] * 22
    best = min(judge.seen[:20], key=lambda one: bowl(one[0]))[0]
    assert Choice(**result["best"][0]["settings"]) == best == judge.seen[-1][0]
    assert list(result["best"][0]["tuned"].values()) == [pytest.approx(bowl(best) + 0.001)]
    assert result["best"][0]["reported"]["class_accuracy"]["value"] == pytest.approx(bowl(best) + 0.002)
    assert result["own"]["settings"] == Choice(1.5, 0.25, 1.0, 1.0).__dict__
    assert result["cost"] == {"evaluations": 22, "images": 264, "network_evaluations": 1056, "seconds": 11.0}


def test_two_numbers_give_their_front(run: OpenRun) -> None:
    judge = Bowl(("lower", "higher"))
    found = tuned(run, judge, 16, also="recall={use: class_accuracy}")
    result = found.result
    front = [result["trials"][number] for number in result["front"]]
    assert len(front) > 1
    for pair, after in itertools.pairwise(front):
        assert pair["values"][0] < after["values"][0]
        assert pair["values"][1] < after["values"][1]
    assert {entry["trial"] for entry in result["best"]} <= set(result["front"])
    assert len(result["best"]) == min(5, len(front))
    assert all(entry["reported"]["recall"]["value"] == entry["settings"]["scale"] for entry in result["best"])
    told = "\n".join(lines_of(result, ["gaekit", "run", "tiny"]))
    assert "settings on the Pareto front" in told
    assert told.count("gaekit run tiny --set") == len(result["best"])
    pytest.importorskip("matplotlib")
    page = make_page(result, ["gaekit", "run", "tiny"])
    assert page.count("<figure") == 2 + 1 + 4
    assert "Every evaluation, on seed 1" in page


def test_a_search_goes_on_and_says_when_it_is_done(run: OpenRun) -> None:
    stopped = Bowl(most=7)
    with pytest.raises(KeyboardInterrupt):
        tuned(run, stopped, 14)
    rest = Bowl()
    found = tuned(run, rest, 14)
    assert (found.new, found.result["evaluations"]) == (7, 14)
    whole = Bowl()
    shutil.rmtree(found.folder)
    assert tuned(run, whole, 14).result["best"] == found.result["best"]
    assert stopped.seen + rest.seen == whole.seen
    again = Bowl(most=0)
    assert tuned(run, again, 14).new == 0  # nothing is made again, neither searched nor anew
    with Room(found.folder).lock(), pytest.raises(RoomInUse):
        tuned(run, again, 20)


def test_what_was_made_anew_for_a_smaller_budget_is_counted_too(run: OpenRun) -> None:
    judge = Bowl(("lower", "higher"))
    for budget in (6, 30):
        found = tuned(run, judge, budget, also="recall={use: class_accuracy}")
    anew = [choice for choice, seed, _ in judge.seen if seed == 2]
    assert len(anew) == len(set(anew)) > len(found.result["best"]) + 1
    assert found.result["cost"]["evaluations"] == len(judge.seen)


@pytest.mark.parametrize(
    ("change", "names", "left_out"),
    [
        ({"sampler": {"use": "torchdiffeq", "method": "bosh3"}}, ALL, ["shift"]),
        ({"sampler": {"use": "torchdiffeq", "method": "euler", "steps": 4}}, ALL, []),
        ({"sampler": {"use": "euler_maruyama", "steps": 4}}, ALL, []),
        ({"sampler": {"use": "euler", "steps": 1}}, ALL, ["shift"]),  # from the one end to the other
        ({"sampler": {"use": "dopri5"}}, ("scale", "shift"), ["shift"]),  # has none
        ({"guidance": {"scale": 1.0}}, ("interval", "shift"), ["interval"]),
        ({"guidance": {"scale": 1.0}}, ("interval", "scale"), []),
    ],
)
def test_a_setting_that_changes_nothing_is_left_out_with_a_line(
    run: OpenRun, change: dict[str, object], names: tuple[str, ...], left_out: list[str]
) -> None:
    run, told = changed(run, change)
    found = tune_guidance(run, Task("{use: class_accuracy}", budget=2, names=names), Bowl())
    assert re.findall(r"(\w+): left out, since ", told.getvalue()) == left_out
    tuned = {"start": "interval", "share": "interval"}
    assert {tuned.get(name, name) for name in found.result["space"]} == set(names) - set(left_out)


def test_a_search_of_nothing_but_such_settings_is_refused(run: OpenRun) -> None:
    run, _ = changed(run, {"sampler": {"use": "torchdiffeq"}, "guidance": {"scale": 1.0}})
    text = (
        "--tune interval,shift: nothing is left to tune: interval: guidance of scale 1 is none in any interval, and "
        "the scale is not tuned; shift: the sampler 'torchdiffeq', as it is set, makes the same with any"
    )
    with pytest.raises(GaekitError, match=text):
        tune_guidance(run, Task("{use: class_accuracy}", budget=2, names=("interval", "shift")), Bowl())


def changed(run: OpenRun, change: dict[str, object]) -> tuple[OpenRun, io.StringIO]:
    """The run with another section `sample`, and where it tells what it does."""
    file, told = run.path / "recipe.yaml", io.StringIO()
    section = load_section(Sample, {"count": 12, "sampler": {"use": "euler"}} | change, run.registry, source="test")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"sample": dump(section)}))
    return open_run(run.path, reporter=Reporter(Console(file=told, width=500))), told


def test_a_metric_that_gives_both_numbers_looks_at_images_once(run: OpenRun) -> None:
    one, other = "class_accuracy={use: class_accuracy}", "again={use: class_accuracy, side: 8}"
    judge = Judge(run, [read_wanted(run, one), read_wanted(run, other)])
    assert [config.use for config in judge.configs] == ["class_accuracy"]
    with pytest.raises(GaekitError, match=r"metric 'again=.*': gives class_accuracy; name one of them: NAME=\{use: c"):
        judge(OWN, 1, 12)


def test_another_question_is_another_study(run: OpenRun) -> None:
    folders = {
        tune_guidance(run, Task("{use: class_accuracy}", budget=2, **changes), Bowl()).folder
        for changes in ({}, {"seed": 7}, {"images": 4}, {"names": ("scale",)}, {"max_scale": 3.0})
    }
    assert len(folders) == 5
    assert {folder.parent for folder in folders} == {run.path / "tuning"}


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (Task("fid", budget=2, names=("scale", "steps")), "--tune steps: no such setting; there are scale, interval"),
        (Task("fid", budget=1), "--budget 1: expected 2 evaluations or more"),
        (Task("fid", budget=2, seed=0), "--seed 0: is tuned on, and 1 is reported on; neither may be"),
        (Task("fid", budget=2, max_scale=1.0), "--max-scale 1: expected more than 1"),
        (Task("fid", "fid", budget=2), "--also fid: is called as the metric is"),
        (Task("fid", budget=2), "evaluates nothing about samples; give a metric as in a recipe"),
        (Task("{use: psnr}", budget=2), "metric 'psnr' is not one of samples"),
        (Task("{use: frechet}", budget=2), "metric {use: frechet}.*teacher"),
        (Task("{use frechet}", budget=2), "write a number's name, or a metric as in a recipe"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_an_image_is_made(run: OpenRun, task: Task, text: str) -> None:
    with pytest.raises(GaekitError, match=text):
        tune_guidance(run, task)
    assert not (run.path / "tuning").exists()


def test_a_number_that_is_not_finite_ends_the_search(tmp_path: Path) -> None:
    found = study(tmp_path)
    with pytest.raises(RunFailed, match=r"scale 1\.5 from 0\.25 to 1, shift 1: the metric gave nan"):
        found.add(found.next(), [math.nan], {})
    assert len(study(tmp_path)) == 0


def test_the_images_judged_are_those_of_the_sample_stage(run: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    section = run.recipe.sample
    assert isinstance(section, Sample)
    judge = Judge(run, [read_wanted(run, "{use: class_accuracy}")])
    made: list[np.ndarray] = []
    original = judge._images

    def kept(*given: object) -> object:
        for pixels, label in original(*given):  # type: ignore[arg-type]
            made.append(pixels.numpy())
            yield pixels, label

    monkeypatch.setattr(judge, "_images", kept)
    outcome = judge(Choice.of(section), run.recipe.seed, 12, intervals=True)
    with np.load(run.path / "samples.npz") as samples:
        assert np.array_equal(np.concatenate(made), samples["arr_0"])
    record = run.record["stages"]["sample"]["record"]["evaluations_per_image"]["samples"]
    assert outcome.evaluations_per_image == record
    assert judge.goals(["class_accuracy", "frechet_x"]) == ["higher", "lower"]
    assert list(outcome.entries) == ["class_accuracy"]


def test_from_the_command_line(run: OpenRun) -> None:
    folder = run.path.parent
    command = ["tune-guidance", "tiny", "--metric", "{use: class_accuracy}", "--images", "6", "--budget", "3"]
    told = gaekit(folder, *command)
    assert "[3/3] scale" in told.stderr
    assert "tuned on seed 1" in told.stdout
    assert "anew on seed 2, with its 95 % interval" in told.stdout
    shown = re.search(r"--set sample\.guidance\.scale=(\S+)", told.stdout)
    result = json.loads(gaekit(folder, *command, "--json").stdout)
    assert shown is not None
    assert float(shown[1]) == result["best"][0]["settings"]["scale"]
    assert "3 of 3 evaluations are there; none is left to make" in gaekit(folder, *command).stderr
    assert result["reported_on"] == {"seed": 2, "images": 12}
    assert result["best"][0]["reported"]["class_accuracy"]["protocol"]["dataset"] == run.data.digest


@pytest.mark.slow
def test_a_killed_search_loses_no_evaluation(run: OpenRun) -> None:
    folder, journal = run.path.parent, f"tuning/class_accuracy-*/{JOURNAL}"
    command = [sys.executable, "-m", "gaekit", "tune-guidance", "tiny", "--metric", "{use: class_accuracy}"]
    command += ["--images", "60", "--budget", "12"]
    for signum in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
        before = sum(len(file.read_bytes().splitlines()) for file in run.path.glob(journal))
        while sum(len(file.read_bytes().splitlines()) for file in run.path.glob(journal)) < before + 4:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signum)
        assert process.wait() == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    kept = re.search(r"(\d+) of 12 evaluations are there", done.stderr)
    assert kept is not None
    assert int(kept[1]) >= 6
    first = json.loads(next(run.path.glob("tuning/*/result.json")).read_text())
    shutil.rmtree(run.path / "tuning")
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    second = json.loads(next(run.path.glob("tuning/*/result.json")).read_text())
    strip = lambda found: [(t["settings"], t["values"]) for t in found["trials"]]  # noqa: E731
    assert strip(first) == strip(second)
    assert len(first["trials"]) == 12
