"""A probe changes no bit of a training, is made once however the process ends, and marks the best of its kind."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from train.test_training import assert_same, host, train

from gaekit.errors import Preempted
from gaekit.recipe.schema import Train
from gaekit.store.curves import read_curves
from gaekit.train.probing import Probe, Probed, Probes, untouched
from gaekit.train.progress import Bar, Reporter


class Killed(BaseException):
    """Ends a process where nothing expects it."""


class Looks:
    """What a probe saw; `dies_at` is the look at which its process is killed."""

    def __init__(self, dies_at: int = -1):
        self.seen: list[float] = []
        self.dies_at = dies_at

    def measure(self, training: Probed) -> Mapping[str, float]:
        """Whatever a metric may do: random numbers of every sort, a network of its own, other flags."""
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        torch.nn.Linear(4, 4)
        torch.backends.cudnn.benchmark = True
        weights, averaged = training.weights("generator"), training.averaged("generator")
        if len(self.seen) == self.dies_at:
            raise Killed
        self.seen.append(sum(float(t.double().sum()) for t in weights.values()))
        return {"sum/raw": self.seen[-1], "sum/ema": sum(float(t.double().sum()) for t in averaged.values())}


def probe(looks: Looks, **settings: Any) -> Probe:
    return Probe(settings.pop("every", 3), looks.measure, "sum/ema", **settings)


def probed(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = read_curves(folder / "curves.jsonl").under("probe/")
    return {name: points for name, points in found.items() if name != "probe/seconds"}


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("alone")
    return train(folder / "plain"), train(folder / "probed", probe=probe(Looks())), folder


def test_a_training_that_is_probed_is_the_one_that_is_not_bit_for_bit(left_alone: Any) -> None:
    plain, with_probes, folder = left_alone
    assert_same(plain, with_probes)
    assert [step for step, _ in probed(folder / "probed")["probe/sum/raw"]] == [3, 6, 9, 12, 15, 18, 20]
    assert probed(folder / "plain") == {}
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("dies_at", [0, 1, 4, 6])
def test_killed_in_a_probe_and_resumed_curves_and_weights_are_the_same(
    left_alone: Any, tmp_path: Path, dies_at: int
) -> None:
    """Checkpoints are of every third step, as probes are: at dies_at 6 the training itself was at its end."""
    whole, _, folder = left_alone
    looks = Looks(dies_at)
    with pytest.raises(Killed):
        train(tmp_path, save_every=3, probe=probe(looks))
    again = Looks()
    assert_same(whole, train(tmp_path, save_every=3, probe=probe(again)))
    assert probed(tmp_path) == probed(folder / "probed")
    assert len(looks.seen) + len(again.seen) == 7  # none was made a second time


@pytest.mark.parametrize("look", [2, 6])
def test_a_signal_in_a_probe_ends_the_training_after_it_in_the_last_too(
    left_alone: Any, tmp_path: Path, look: int
) -> None:
    whole, _, folder = left_alone
    looks = Looks()

    def measure(training: Probed) -> Mapping[str, float]:
        if len(looks.seen) == look:
            os.kill(os.getpid(), signal.SIGTERM)
        return looks.measure(training)

    with pytest.raises(Preempted, match=f"stopped and saved at step {[9, 20][look == 6]} of 20"):
        train(tmp_path, probe=replace(probe(looks), measure=measure))
    again = Looks()
    assert_same(whole, train(tmp_path, probe=probe(again)))
    assert probed(tmp_path) == probed(folder / "probed")
    assert len(looks.seen) + len(again.seen) == 7


def test_probes_between_checkpoints_are_made_again_with_their_steps(left_alone: Any, tmp_path: Path) -> None:
    whole, _, folder = left_alone
    train(tmp_path, stop=14, probe=probe(Looks()))  # saved at 10, probed at 12
    assert_same(whole, train(tmp_path, probe=probe(Looks())))
    assert probed(tmp_path) == probed(folder / "probed")


def test_the_best_is_marked_by_a_stated_number_and_the_last_is_kept(tmp_path: Path) -> None:
    said = StringIO()
    values = iter([3.0, 1.0, float("nan"), 2.0])
    one = Probe(5, lambda training: {"first": 0.0, "loss/ema": next(values), "loss/ema/t0.5": -1.0}, "loss/ema")
    where = replace(host(tmp_path), reporter=Reporter(Console(file=said, width=200)))
    probes = Probes(one, where, 20)
    for step in (5, 10, 15, 20):
        probes.look(step, None)  # type: ignore[arg-type]
    record = probes.record
    assert record["best"] == {"step": 10, "value": 1.0}
    assert record["by"] == "lowest probe/loss/ema"
    assert record["count"] == 4
    lines = said.getvalue().splitlines()
    assert [("the best so far" in line) for line in lines] == [False, True, False, False, False]
    assert "the best probe was that of step 10, by loss/ema 1; the result is that of the last step" in lines[-1]
    higher = Probes(replace(one, higher=lambda name: True, measure=lambda training: {"loss/ema": 1.0}), where, 20)
    higher._values = {5: 3.0, 10: 1.0}
    assert higher._best() == 5


def test_the_record_of_a_resumed_training_knows_the_probes_before_it(left_alone: Any, tmp_path: Path) -> None:
    _, whole, _ = left_alone
    train(tmp_path, stop=13, probe=probe(Looks()))
    resumed = train(tmp_path, probe=probe(Looks()))
    found = [training.record["probe"] for training in (whole, resumed)]
    assert all(record.pop("seconds") > 0 for record in found)
    assert found[0] == found[1]
    assert found[0]["count"] == 7


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    said = StringIO()
    where = replace(host(tmp_path), reporter=Reporter(Console(file=said, width=200)))
    one = Probe(5, lambda training: {"a": 1.0}, "a", doubt=lambda numbers: f"nothing at {numbers['a']:g}")
    Probes(one, where, 20).look(5, None)  # type: ignore[arg-type]
    assert "test: nothing at 1" in said.getvalue()


def test_random_numbers_and_flags_are_put_back_even_after_an_error() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    flag = torch.backends.cuda.matmul.allow_tf32
    with pytest.raises(ValueError, match="inside"), untouched(torch.device("cpu")):
        torch.rand(3), np.random.rand(3), random.random()
        torch.backends.cuda.matmul.allow_tf32 = not flag
        raise ValueError("inside")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert torch.backends.cuda.matmul.allow_tf32 == flag


def test_a_training_that_is_only_measured_is_not_probed(tmp_path: Path) -> None:
    from gaekit.train.step_times import StepTimes
    from gaekit.train.training import Training

    where = replace(host(tmp_path), times=StepTimes(1, 1.0))
    training = Training(Train(steps=4, batch=8), {"a": torch.nn.Linear(1, 1)}, where, probe=probe(Looks()))
    with training:
        pass
    assert "probe" not in training.record
    assert not (tmp_path / "curves.jsonl").exists()


def test_the_rate_and_the_time_left_that_are_shown_are_without_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gaekit.train.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    bar = Bar(Console(quiet=True), "training", 3)
    now[0] = 10.0
    with bar.left_out("probing"):
        now[0] = 70.0
    bar.advance(per=20)
    assert bar.line() == "  training 1/3  2 images/s  20 s left"
